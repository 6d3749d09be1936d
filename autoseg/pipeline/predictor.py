"""Prediction from Python: a model that stays in memory, images in, segmentations out, no processes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from autoseg import prediction
from autoseg.core.dataset import Case
from autoseg.core.errors import DataError, Problem, UsageError
from autoseg.core.geometry import Geometry
from autoseg.core.labels import LabelScheme
from autoseg.core.strategy import Step
from autoseg.io.images import LoadedCase, loaded_case, read_case
from autoseg.io.volume_file import image_of, voxels_of
from autoseg.nets.device import choose_device
from autoseg.pipeline.predicting import TREATMENT_BYTES, treatment
from autoseg.pipeline.sharing import opened_model

log = logging.getLogger(__name__)
Image = Any  # sitk.Image, NumPy array, path, or a list of one of them per channel


class Predictor:
    """A trained model that answers in this process.

        predict = Predictor.load("model.zip", device="cpu")
        segmentation = predict("scan.nii.gz")

    Postprocessing that belongs to the model is done. Several threads may call it at the same time; each call needs
    memory of its own. What is unusual about an image, compared with the training images, is logged as a warning.
    """

    def __init__(
        self, members: Sequence[prediction.Ensemble], settings: prediction.Settings, *, steps: Sequence[Step] = ()
    ) -> None:
        """Take loaded models that answer together, and their postprocessing; `load` is the usual way."""
        self._members, self._settings = tuple(members), settings
        self._treat = treatment(steps, self._members[0].plan.scheme)

    @classmethod
    def load(
        cls,
        model: str | Path,
        *,
        device: str | None = None,
        configurations: Sequence[str] | None = None,
        folds: Sequence[str | int] | None = None,
        mirroring: bool = True,
        step: float = 0.5,
        max_memory_gb: float | None = None,
    ) -> Predictor:
        """Load a model file, a model folder or a results folder.

        Args:
            model: what `autoseg_export_model` or `autoseg_import_model` wrote, or a folder with model.json.
            device: cpu, cuda, cuda:1 or mps; None takes the GPU if there is one.
            configurations: of a model with several, those whose probabilities are averaged.
            folds: None takes all that are there.
            mirroring: whether mirrored copies are averaged.
            step: share of the patch between tiles, in (0, 1].
            max_memory_gb: what the process may use; None stands for what is free.

        Raises:
            UsageError: there is no such model, configuration or fold. DataError: a file is damaged.
            DeviceError: the machine has no such device.
        """
        if not 0 < step <= 1:
            raise UsageError(f"step is {step}; give a number above 0, at most 1")
        names = None if folds is None else [str(fold) for fold in folds]
        with opened_model(Path(model), configurations=configurations) as opened:
            members = prediction.load_members(
                opened.folders, folds=names, device=choose_device(device), mirroring=mirroring
            )
        settings = prediction.Settings(
            step=step, max_memory_gb=max_memory_gb, treatment_bytes=TREATMENT_BYTES if opened.steps else 0
        )
        return cls(members, settings, steps=opened.steps)

    @property
    def labels(self) -> LabelScheme:
        """What the values of a segmentation mean."""
        return self._members[0].plan.scheme

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Channels that an image must have, in this order."""
        return tuple(self._members[0].plan.channel_names)

    def __call__(
        self, image: Image, *, spacing_mm: Sequence[float] | None = None, return_probabilities: bool = False
    ) -> Any:
        """Segment one image.

        Args:
            image: a SimpleITK image; a file; or an array (Z, Y, X) or (C, Z, Y, X), z towards the head, y to the back,
                x to the patient's left. For several channels of files or SimpleITK images a list of them.
            spacing_mm: (z, y, x), for arrays only.
            return_probabilities: whether to return them too.

        Returns:
            The labels on the grid of the image, in the scheme's smallest unsigned type: a SimpleITK image for an image
            or a file, an array (Z, Y, X) for an array. With `return_probabilities` a pair of that and the float32
            probabilities (n_outputs, Z, Y, X) in the order of `labels.outputs`.

        Raises:
            DataError: the image is damaged, or has other channels than the model. DeviceError: memory does not suffice.
            UsageError: an array without spacing.
        """
        scan = self._read(image, spacing_mm)
        return _finished(image, *self._segment(scan, return_probabilities))

    def many(
        self,
        images: Iterable[Image],
        *,
        spacing_mm: Sequence[float] | None = None,
        return_probabilities: bool = False,
    ) -> Iterator[Any]:
        """Segment several images, see `__call__`; the next one is read while one is computed.

        An image that fails ends the iteration with its error.
        """

        def compute(image: Image, scan: prediction.LoadedScan, read_next: Any) -> Any:
            return self._segment(scan, return_probabilities, read_next)

        for _, result in prediction.overlapped(
            images,
            read=lambda image: self._read(image, spacing_mm),
            compute=compute,
            finish=lambda image, made: _finished(image, *made),
        ):
            if isinstance(result, Exception):
                raise result
            yield result

    def _read(self, image: Image, spacing_mm: Sequence[float] | None) -> prediction.LoadedScan:
        scan = prediction.prepare_scan(self._members, _loaded(image, spacing_mm))
        for warning in scan.warnings:
            log.warning("%s", warning)
        return scan

    def _segment(
        self,
        scan: prediction.LoadedScan,
        with_probabilities: bool,
        read_next: Callable[[], None] = lambda: None,
    ) -> tuple[NDArray[np.unsignedinteger], NDArray[np.float32] | None, Geometry]:
        """Labels and probabilities in stored orientation."""
        geometry, box = scan.geometry, scan.image.grids.box
        probabilities = None
        if with_probabilities:
            probabilities = np.zeros((self._members[0].n_outputs, *geometry.shape), dtype=np.float32)
            probabilities[0] = not self.labels.has_regions  # outside of the crop there is background

        def collect(row: int, block: torch.Tensor) -> None:
            assert probabilities is not None
            first = box[0][0] + row
            place = scan.to_rows.undo_box([(first, first + block.shape[1]), *box[1:]], geometry.shape)
            probabilities[(slice(None), *place)] = scan.to_rows.undo(block.cpu().numpy())

        labels, trust = prediction.segment_with_trust(
            self._members,
            scan,
            self._settings,
            planned=lambda plan: read_next() if plan.read_ahead else None,
            on_probabilities=collect if with_probabilities else None,
        )
        for doubt in trust.doubts:
            log.warning("%s", doubt)
        treated = self._treat(labels, geometry.voxel_volume_ml)
        return geometry.orientation.undo(treated), probabilities, geometry


def _loaded(image: Image, spacing_mm: Sequence[float] | None) -> LoadedCase:
    """An image of any kind that `Predictor` takes, in canonical orientation."""
    if isinstance(image, np.ndarray):
        return _loaded_array(image, spacing_mm)
    channels = list(image) if isinstance(image, (list, tuple)) else [image]
    if not channels:
        raise UsageError("there is no image in the list; give one per channel")
    if spacing_mm is not None:
        raise UsageError("spacing_mm is for arrays; images and files know their own")
    if all(isinstance(channel, (str, Path)) for channel in channels):
        paths = tuple(Path(channel) for channel in channels)
        return read_case(Case(id=paths[0].name, images=paths), labels=None)
    try:
        volumes = [voxels_of(channel) for channel in channels]
    except AttributeError as error:
        kind = type(channels[0]).__name__
        raise UsageError(f"a {kind} is no image; give a SimpleITK image, a file, or a NumPy array") from error
    for _, geometry in volumes[1:]:
        if errors := volumes[0][1].differences(geometry)[0]:
            raise DataError(Problem(case="image", found=errors[0], next="resample the channels onto one grid"))
    return loaded_case("image", [voxels for voxels, _ in volumes], volumes[0][1])


def _loaded_array(image: NDArray[Any], spacing_mm: Sequence[float] | None) -> LoadedCase:
    if spacing_mm is None or len(spacing_mm) != 3 or not all(0 < mm < np.inf for mm in spacing_mm):
        raise UsageError(f"spacing_mm is {spacing_mm}; an array needs three positive numbers, (z, y, x)")
    if image.ndim not in (3, 4) or 0 in image.shape or image.dtype.kind not in "iufb":
        found = f"an array of shape {image.shape} and type {image.dtype}"
        raise UsageError(f"{found} is no image; give numbers as (Z, Y, X) or (C, Z, Y, X)")
    if not np.isfinite(image).all():
        raise DataError(Problem(case="image", found="holds NaN or infinite values", next="replace them"))
    channels = list(image) if image.ndim == 4 else [image]
    geometry = Geometry(shape=channels[0].shape, spacing_mm=tuple(float(mm) for mm in spacing_mm))  # type: ignore[arg-type]
    return loaded_case("image", channels, geometry)


def _finished(
    image: Image,
    labels: NDArray[np.unsignedinteger],
    probabilities: NDArray[np.float32] | None,
    geometry: Geometry,
) -> Any:
    """What `Predictor` returns for an image of this kind."""
    found = np.ascontiguousarray(labels)
    result = found if isinstance(image, np.ndarray) else image_of(found, geometry)
    return result if probabilities is None else (result, probabilities)
