"""One recipe on several backbones: their scores beside what they cost."""
