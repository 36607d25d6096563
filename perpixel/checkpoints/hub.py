"""Models on the Hugging Face Hub: model.safetensors, config.json and a model card in README.md.

model.safetensors is an ordinary checkpoint and holds all that is needed; config.json repeats it
under the keys that other tools read.
"""

import json
import re
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from perpixel.checkpoints.format import Checkpoint, write_checkpoint
from perpixel.errors import PerpixelError, UsageError, plural
from perpixel.io.atomic import atomic_write, mute_logger
from perpixel.io.download import hash_of
from perpixel.recipes.models import method_name

WEIGHTS = "model.safetensors"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = (".safetensors", ".pth", ".pt", ".pkl", ".onnx", ".pt2", ".json", ".py")
_SCORES = (("miou", "mean_iou", "mIoU"), ("pixel_accuracy", "accuracy", "pixel accuracy"))
_CARD = """\
---
{front}
---

# {name}

{summary}

```python
import perpixel

model = perpixel.load("{repository}")
model.predict("image.jpg").mask
```

Classes: {classes}.

## License

{license_text}
The terms of the data they were trained on apply, too.

## Recipe

```json
{recipe}
```
"""


def is_repository(name: str) -> bool:
    """Whether `name` has the form OWNER/NAME, is no file's name, and OWNER is no local folder."""
    path = Path(name)
    return bool(_NAME.fullmatch(name)) and path.suffix not in _FILES and not path.parent.exists()


def save_pretrained(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    license: str | None = None,
    repository: str = "OWNER/NAME",
) -> None:
    """Writes the three files into `folder`, to be uploaded as `repository`.

    `license` is for the model card, such as "cc-by-4.0". The card has the scores of the run's
    evaluate.json if they are the checkpoint's. Raises PerpixelError when a file cannot be written.
    """
    write_checkpoint(folder / WEIGHTS, checkpoint)
    config = {
        "library_name": "perpixel",
        "id2label": dict(enumerate(checkpoint.class_names)),
        "label2id": {name: index for index, name in enumerate(checkpoint.class_names)},
        "palette": checkpoint.palette,
        "step": checkpoint.step,
        "recipe": checkpoint.recipe.model_dump(mode="json"),
    }
    atomic_write(folder / "config.json", json.dumps(config, indent=2).encode())
    atomic_write(folder / "README.md", _card(checkpoint, license, repository).encode())


def download(repository: str, *, revision: str | None = None) -> Path:
    """Downloads the repository's checkpoint into huggingface_hub's cache, once; returns its path.

    Raises PerpixelError when there is no such repository or file, or the Hub cannot be reached.
    """
    import huggingface_hub as client

    fetch = client.hf_hub_download  # its lazy import sets the logger's level: before it is muted
    try:
        with mute_logger("huggingface_hub"):  # the error says why its attempts failed
            if client.try_to_load_from_cache(repository, WEIGHTS, revision=revision) is None:
                message = f"{repository}: no such folder here; asking the Hugging Face Hub ..."
                print(message, file=sys.stderr, flush=True)
                # Fails at once where the Hub cannot be reached; the download retries for 30 s.
                with suppress(client.errors.HfHubHTTPError):  # the download raises it again
                    client.file_exists(repository, WEIGHTS, revision=revision)
            path = Path(fetch(repository, WEIGHTS, revision=revision))
    except Exception as error:  # of many kinds, and the HTTP library's own
        raise PerpixelError(
            f"{repository}: no {WEIGHTS} from the Hub: {_first_line(error)}. Without a network, "
            f"get https://huggingface.co/{repository}/resolve/main/{WEIGHTS} elsewhere, and name "
            f"that file in its place"
        ) from None
    name = path.resolve().name  # the cache calls a large file by its sha256
    if re.fullmatch("[0-9a-f]{64}", name) and hash_of(path) != name:
        path.resolve().unlink()
        raise PerpixelError(f"{repository}: {WEIGHTS} was corrupt and is deleted: try again")
    return path


def push_to_hub(
    checkpoint: Checkpoint, repository: str, *, private: bool = False, license: str | None = None
) -> str:
    """Uploads the three files to OWNER/NAME, which it creates if needed; returns its URL.

    The token is huggingface_hub's (HF_TOKEN, or `hf auth login`). Raises PerpixelError.
    """
    if not _NAME.fullmatch(repository):
        raise UsageError(f"{repository!r}: a repository on the Hub is called OWNER/NAME")
    import huggingface_hub as client

    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(checkpoint, Path(folder), license=license, repository=repository)
        try:
            api = client.HfApi()
            url = str(api.create_repo(repository, private=private, exist_ok=True))
            api.upload_folder(
                repo_id=repository, folder_path=folder, commit_message="Upload by perpixel"
            )
        except Exception as error:  # of many kinds, and the HTTP library's own
            raise PerpixelError(f"{repository}: not uploaded: {_first_line(error)}") from None
    return url


def _card(checkpoint: Checkpoint, license: str | None, repository: str) -> str:
    """Writes the model card's text. JSON is YAML, so that the front matter needs no library."""
    recipe, scores = checkpoint.recipe, _scores(checkpoint)
    method = method_name(recipe.model.head)
    front: dict[str, Any] = {
        "library_name": "perpixel",
        "pipeline_tag": "image-segmentation",
        "tags": ["semantic-segmentation", recipe.model.head.type, recipe.data.name],
    }
    license_text = "The author states no license for the weights."
    if license is not None:
        front["license"] = license
        license_text = f"The weights: {license}."
    # Recipes of before initial weights were recorded say that they are random, --init or not.
    source = recipe.source.removesuffix(", weights from random initialization")
    summary = f"{method}, {plural(len(checkpoint.class_names), 'class')}. {source}."
    if checkpoint.initial_weights is not None:
        summary += f"\n\nInitial weights: {checkpoint.initial_weights}."
    if scores:
        result = {
            "task": {"type": "image-segmentation"},
            "dataset": {"type": recipe.data.name, "name": recipe.data.name},
            "metrics": [
                {"type": kind, "name": title, "value": scores[key]} for key, kind, title in _SCORES
            ],
        }
        front["model-index"] = [{"name": recipe.name, "results": [result]}]
        figures = ", ".join(f"{title} {scores[key]:.2f}" for key, _, title in _SCORES)
        summary += f"\n\nOn `{recipe.data.name}` {recipe.data.eval_split}: {figures}."
    return _CARD.format(
        front="\n".join(f"{key}: {json.dumps(value)}" for key, value in front.items()),
        name=recipe.name,
        summary=summary,
        repository=repository,
        classes=", ".join(checkpoint.class_names),
        license_text=license_text,
        recipe=recipe.model_dump_json(indent=2),
    )


def _scores(checkpoint: Checkpoint) -> dict[str, float]:
    """Reads the scores of the run that the checkpoint lies in; empty where they are of others."""
    origin = checkpoint.origin
    if origin is None or origin.parent.name != "checkpoints":
        return {}
    path = origin.parent.parent / "evaluate.json"
    if not path.is_file():
        return {}
    try:
        scores = json.loads(path.read_text())
        # Up to version 0.2 they name no step, and are those of the final weights.
        if scores.get("step", checkpoint.step if origin.name == WEIGHTS else -1) != checkpoint.step:
            return {}
        return {key: float(scores[key]) for key, _, _ in _SCORES}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise PerpixelError(f"{path}: not an evaluation's scores ({error!r})") from None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
