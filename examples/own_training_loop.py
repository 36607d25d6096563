"""A perpixel model in a training loop of your own: it is a plain torch.nn.Module.

    python examples/own_training_loop.py [--steps 60]

`perpixel.build` makes a recipe's model with random weights; `perpixel.load_model` gives a trained
one (a run folder, a checkpoint, a recipe whose weights were fetched) to train further.
"""

import argparse

import torch
from custom_dataset import Shapes
from torch.nn.functional import cross_entropy, interpolate

import perpixel


def main() -> None:
    """Trains a small Semantic FPN by hand and prints the loss and the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    given = parser.parse_args()

    torch.manual_seed(0)
    recipe = perpixel.recipe("folder/semantic_fpn_r18")
    model = perpixel.build(recipe, num_classes=len(Shapes.class_names)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    dataset = Shapes(200, seed=0)
    for step in range(given.steps):
        pairs = [dataset[(8 * step + index) % len(dataset)] for index in range(8)]
        images = torch.stack([torch.from_numpy(image) for image, _ in pairs])
        masks = torch.stack([torch.from_numpy(mask) for _, mask in pairs])
        pixel_values = (images.permute(0, 3, 1, 2).float() - 120) / 60
        logits = model(pixel_values).logits  # [N, num_classes, h, w], at stride 4
        logits = interpolate(logits, size=masks.shape[-2:], mode="bilinear")
        loss = cross_entropy(logits, masks.long(), ignore_index=255)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 20 == 19 or step == given.steps - 1:
            accuracy = (logits.argmax(dim=1) == masks).float().mean()
            print(f"step {step + 1}  loss {loss:.3f}  pixel accuracy {accuracy:.1%}")


if __name__ == "__main__":
    main()
