"""One image array -> its segmentation, streamed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from autoseg.core.errors import DeviceError
from autoseg.core.workers import available_memory_gb, used_memory_gb
from autoseg.nets.device import give_back_freed_memory
from autoseg.ops.case_transform import Grids, PreparedCase, prepare, prepare_segmentation, restore_labels
from autoseg.ops.resample import separate_axis
from autoseg.prediction.agreement import Agreement
from autoseg.prediction.decode import averaged, decode, native_rows, probabilities
from autoseg.prediction.ensemble import Ensemble
from autoseg.prediction.memory import MemoryPlan, plan_memory, stream_of, torch_device_gb
from autoseg.prediction.sliding_window import Accumulator, stream_logits, usual_tiles

Spacing = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class PreparedImage:
    """An image as each model of an ensemble of models wants it; for a cascade also as its first stage does.

    `cases` holds per model the image on the grid of its network; `earlier` the same for the first stage of a
    cascade, None for other models. All have the same grid before resampling.
    """

    cases: tuple[PreparedCase, ...]
    earlier: tuple[PreparedImage | None, ...]

    @property
    def grids(self) -> Grids:
        """The grids of the first model; native shape and box are those of all."""
        return self.cases[0].grids

    @property
    def gigabytes(self) -> float:
        """What the arrays take."""
        own = sum(case.image.nbytes for case in self.cases) / 1e9
        return own + sum(image.gigabytes for image in self.earlier if image is not None)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to predict: share of the patch between tiles, the memory that the process may use (None: what is free), and
    the folder of a file for sums that do not fit.
    """

    step: float = 0.5
    max_memory_gb: float | None = None
    treatment_bytes: int = 0  # per voxel of the image, for what is done to the labels afterwards
    folder: Path | None = None


def prepare_image(members: Sequence[Ensemble], image: NDArray[np.float32], *, spacing_mm: Spacing) -> PreparedImage:
    """Crop, normalise and resample an image for every model.

    Args:
        members: models that answer together.
        image: float32 (C, Z, Y, X) in the orientation that their plans name.
        spacing_mm: (z, y, x) of the image.
    """
    return PreparedImage(
        cases=tuple(
            prepare(
                image,
                None,
                spacing_mm=spacing_mm,
                plan=member.plan,
                configuration=member.configuration,
                device=str(member.device),
            )
            for member in members
        ),
        earlier=tuple(
            None if member.previous is None else prepare_image([member.previous], image, spacing_mm=spacing_mm)
            for member in members
        ),
    )


def segment(
    members: Sequence[Ensemble],
    image: PreparedImage,
    settings: Settings,
    *,
    progress: Callable[[float], None] = lambda share: None,
    planned: Callable[[MemoryPlan], None] = lambda plan: None,
    on_probabilities: Callable[[int, torch.Tensor], None] | None = None,
    agreement: Agreement | None = None,
) -> NDArray[np.unsignedinteger]:
    """Segment a prepared image; in a cascade with its first stage first.

    Args:
        members: models whose probabilities are averaged.
        image: what `prepare_image` made for them.
        settings: how.
        progress: called with the share of the tiles that are done.
        planned: called with the way of working, before the first tile.
        on_probabilities: called for every block of finished rows, in order, with the number of its first row and the
            float32 probabilities (n_outputs, rows, Y, X) inside the crop, axes in transposed order.
        agreement: what sums up how far the probabilities agree with the labels.

    Returns:
        (Z, Y, X) file label values in the scheme's smallest unsigned type.

    Raises:
        DeviceError: the memory does not suffice, or an answer is not finite.
    """
    n_stages = len(members) + sum(first_stage is not None for first_stage in image.earlier)
    shares: dict[tuple[int, str], float] = {}

    def advance(number: int, stage: str, share: float) -> None:
        shares[number, stage] = share
        progress(sum(shares.values()) / n_stages)

    earlier = []
    for i, (member, first_stage) in enumerate(zip(members, image.earlier, strict=True)):
        labels = None
        if member.previous is not None and first_stage is not None:
            labels = segment([member.previous], first_stage, settings, progress=partial(advance, i, "first"))
        earlier.append(labels)
    plan = _plan(members, image, settings, probabilities=on_probabilities is not None)
    planned(plan)
    grids, scheme = image.grids, members[0].plan.scheme
    with torch.inference_mode():
        streams = [
            _native_logits(member, case, labels, settings, plan, partial(advance, i, "last"))
            for i, (member, case, labels) in enumerate(zip(members, image.cases, earlier, strict=True))
        ]
        inside = np.empty(grids.cropped_shape, dtype=scheme.output_dtype)
        row = 0
        for block in averaged(streams, scheme=scheme):
            inside[row : row + block.shape[1]] = decode(block, scheme)
            if agreement is not None:
                agreement.add(block, inside[row : row + block.shape[1]])
            if on_probabilities is not None:
                on_probabilities(row, probabilities(block, scheme))
            row += block.shape[1]
    assert row == len(inside)
    return restore_labels(inside, grids)


def predict_image(
    members: Sequence[Ensemble], image: NDArray[np.float32], *, spacing_mm: Spacing, settings: Settings | None = None
) -> NDArray[np.unsignedinteger]:
    """Prepare and segment one image (C, Z, Y, X), see `prepare_image` and `segment`."""
    return segment(members, prepare_image(members, image, spacing_mm=spacing_mm), settings or Settings())


def _plan(members: Sequence[Ensemble], image: PreparedImage, settings: Settings, *, probabilities: bool) -> MemoryPlan:
    """The way of working that fits; what the C library holds of earlier cases is given back if that may help."""
    try:
        plan = _plan_with(members, image, settings, probabilities=probabilities)
        if plan.read_ahead and plan.place != "file":
            return plan
    except DeviceError:
        pass
    give_back_freed_memory()
    return _plan_with(members, image, settings, probabilities=probabilities)


def _plan_with(
    members: Sequence[Ensemble], image: PreparedImage, settings: Settings, *, probabilities: bool
) -> MemoryPlan:
    free = available_memory_gb()
    if settings.max_memory_gb is not None:
        free = min(free, settings.max_memory_gb - used_memory_gb())
    grids = image.grids
    return plan_memory(
        [stream_of(member, case.image.shape[1:]) for member, case in zip(members, image.cases, strict=True)],
        n_outputs=members[0].n_outputs,
        native_shape=grids.transposed_shape,
        # the next case as read, as float32, resampled: as large as this one, for want of a better guess
        next_case_gb=image.gigabytes + 2 * 4e-9 * len(members[0].plan.channel_names) * float(np.prod(grids.shape)),
        host_gb=free - settings.treatment_bytes * float(np.prod(grids.shape)) / 1e9,
        device_gb=torch_device_gb(members[0].device),
        probabilities=probabilities,
    )


def _native_logits(
    member: Ensemble,
    case: PreparedCase,
    earlier: NDArray[np.unsignedinteger] | None,
    settings: Settings,
    plan: MemoryPlan,
    progress: Callable[[float], None],
) -> Iterator[torch.Tensor]:
    """A model's logits on the grid of the cropped image, a few rows at a time."""
    network_input = torch.from_numpy(case.image)
    if earlier is not None:
        labels = prepare_segmentation(member.plan.scheme.encode(earlier), case.grids, device=str(member.device))
        network_input = torch.cat([network_input, torch.from_numpy(labels)[None]])
    at_once = min(plan.tiles_at_once, usual_tiles(member.patch, member.device))
    slabs = stream_logits(
        network_input,
        partial(member.logits, at_once=at_once),
        patch_size=tuple(member.configuration.patch_size),
        n_outputs=member.n_outputs,
        step=settings.step,
        device=member.device,
        tiles_at_once=at_once,
        accumulator=Accumulator(
            member.device if plan.place == "device" else torch.device("cpu"),
            folder=(settings.folder or Path(tempfile.gettempdir())) if plan.place == "file" else None,
        ),
        progress=progress,
    )
    grids = case.grids
    return native_rows(
        slabs,
        shape_in=grids.target_shape,
        shape_out=grids.cropped_shape,
        separate_axis=separate_axis(grids.target_spacing_mm, grids.spacing_mm),
    )
