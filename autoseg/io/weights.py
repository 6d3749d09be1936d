"""Network weights with a few facts about them, as safetensors: opening somebody's file cannot run code."""

from __future__ import annotations

import errno
import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoseg.core.errors import refuse_file
from autoseg.core.files import whole_file

if TYPE_CHECKING:
    import torch

METADATA_KEY = "autoseg"
CHECKSUMS_KEY = "crc32"  # among the facts, of each tensor: the format itself does not notice a flipped bit
MOST_FACTS_BYTES = 1 << 24


def save_weights(path: Path, state_dict: Mapping[str, torch.Tensor], *, facts: dict[str, Any]) -> None:
    """Write tensors and facts, whole or not at all.

    Raises OSError where the disk is full or does not answer.

    Args:
        path: the .safetensors file.
        state_dict: tensors of any dtype, device and memory format; tensors may share memory.
        facts: what a reader of the weights has to know, as JSON (no NaN, no infinity, at most 16 MiB).
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # The format stores plain rows without sharing, so channels-last and tied tensors are copied.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state_dict.items()}
    checksums = {name: _checksum(tensor) for name, tensor in tensors.items()}
    text = json.dumps({**facts, CHECKSUMS_KEY: checksums}, allow_nan=False)
    assert len(text) <= MOST_FACTS_BYTES
    with whole_file(path) as temporary:
        try:
            save_file(
                tensors, temporary, metadata={METADATA_KEY: text}
            )  # of two keys the order would be left to chance
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else errno.EIO, str(error), str(path)) from error


def load_weights(
    path: Path, *, todo: str = "copy or export the model again"
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what `save_weights` wrote; the tensors are on the CPU. `todo` is what to do about a damaged file.

    Raises:
        DataError: the file is missing, damaged, no safetensors (pickles are not opened), or not of autoseg.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        refuse_file(path, "does not exist", "check the path, or train first")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError) as error:
        refuse_file(path, f"is no intact safetensors file ({error})", todo)
    text = metadata.get(METADATA_KEY)
    if text is None:
        refuse_file(path, "was not written by autoseg", "give the weights of a model that autoseg trained")
    if len(text) > MOST_FACTS_BYTES:
        refuse_file(path, f"carries {len(text)} bytes of facts", todo)
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        refuse_file(path, f"carries facts that are no JSON ({error})", todo)
    if not isinstance(facts, dict):
        refuse_file(path, "carries facts that are no JSON object", todo)
    checksums = facts.pop(CHECKSUMS_KEY, {})  # none in files of before
    if not isinstance(checksums, dict):
        refuse_file(path, "carries checksums that are no JSON object", todo)
    for name, wanted in checksums.items():
        if name not in tensors or _checksum(tensors[name]) != wanted:
            refuse_file(path, f"is damaged: {name} is not as it was written", todo)
    return tensors, facts


def read_facts(path: Path) -> dict[str, Any]:
    """The facts about weights, without reading these; none where the file is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get(METADATA_KEY, "{}"))
    except (SafetensorError, OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _checksum(tensor: torch.Tensor) -> int:
    import torch

    flat = tensor.reshape(-1)
    return zlib.crc32(flat.view(torch.uint8).numpy()) if flat.numel() else 0


def weights_of_state(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights to predict with in a saved state of training: averaged ones where there are."""
    parts = by_prefix(tensors)
    return {**parts["network"], **parts.get("average", {})}


def by_prefix(tensors: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Tensors of a saved state by the part they belong to: what stands before the first dot of their names."""
    parts: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        prefix, rest = name.split(".", 1)
        parts.setdefault(prefix, {})[rest] = tensor
    return parts
