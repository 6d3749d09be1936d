"""The planner decides what nnU-Net's default planner decides, and says so when it is asked for nonsense."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoseg.core.declaration import DatasetJson
from autoseg.core.errors import DataError, UsageError
from autoseg.core.fingerprint import Fingerprint
from autoseg.core.plan import Plan
from autoseg.planning import PLANNERS, plan

MakeFingerprint = Callable[..., Fingerprint]
PEER = Path(__file__).resolve().parents[3] / "shared" / "planning" / "peer_plans.json"
SCENARIOS: dict[str, Any] = json.loads(PEER.read_text()) if PEER.is_file() else {}
NORMALIZATION = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "rescale_0_1",
    "RGBTo01Normalization": "rgb_0_1",
}


def peer_scenarios() -> list[Any]:
    missing = pytest.mark.skip(reason=f"no recorded plans at {PEER}")
    return [*SCENARIOS] or [pytest.param("", marks=missing)]


def make_declaration(**changes: Any) -> DatasetJson:
    facts = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "file_ending": ".nii.gz"}
    return DatasetJson.model_validate({**facts, **changes})


def planned(scenario: str, planner: str) -> Plan:
    facts = SCENARIOS[scenario]
    fingerprint = Fingerprint.model_validate(facts["fingerprint"])
    declaration = DatasetJson.model_validate(facts["dataset_json"])
    return plan(fingerprint, declaration, dataset="Dataset900_Peer", planner=planner)


@pytest.mark.parametrize("planner", ["default", "resenc_m", "resenc_l", "resenc_xl"])
@pytest.mark.parametrize("scenario", peer_scenarios())
def test_every_decision_equals_the_peers(scenario: str, planner: str) -> None:
    started = time.process_time()
    made = planned(scenario, planner)
    seconds = time.process_time() - started
    peer = SCENARIOS[scenario]["plans"][planner]
    theirs = peer["configurations"]
    assert list(made.transpose_forward) == peer["transpose_forward"]
    assert set(made.configurations) == set(theirs)
    for name, facts in theirs.items():
        ours = made.configuration(name)
        expected = {**theirs[facts["inherits_from"]], **facts} if "inherits_from" in facts else facts
        assert (ours.inherits_from, ours.previous_stage) == (facts.get("inherits_from"), facts.get("previous_stage"))
        assert ours.patch_size == expected["patch_size"], name
        assert ours.batch_size == expected["batch_size"], name
        assert ours.spacing_mm == pytest.approx(expected["spacing"], rel=1e-9), name
        assert ours.median_shape_voxels == expected["median_image_size_in_voxels"], name
        assert ours.normalization == [NORMALIZATION[scheme] for scheme in expected["normalization"]], name
        assert ours.use_mask_for_norm == expected["use_mask_for_norm"], name
        assert ours.batch_dice == expected["batch_dice"], name
        assert ours.network.features_per_stage == expected["features_per_stage"], name
        assert ours.network.strides == expected["strides"], name
        assert ours.network.kernel_sizes == expected["kernel_sizes"], name
        assert ours.network.blocks_per_stage == expected["blocks"], name
        n_convs = 2 if planner == "default" else 1
        assert ours.network.blocks_per_stage_decoder == [n_convs] * (len(expected["blocks"]) - 1), name
        assert ours.network.name == ("plain_unet" if planner == "default" else "residual_encoder_unet"), name
    assert seconds < 0.5


def test_planning_imports_no_torch() -> None:
    code = "import sys, autoseg.planning; sys.exit('torch' in sys.modules or 'SimpleITK' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120, check=False).returncode == 0


def test_a_plan_survives_its_file(make_fingerprint: MakeFingerprint, tmp_path: Path) -> None:
    made = plan(make_fingerprint(), make_declaration(), dataset="Dataset001_Liver")
    made.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json") == made
    assert set(made.configurations["3d_fullres"].reasons) >= {"spacing_mm", "patch_size", "batch_size"}


def test_the_coarsest_axis_comes_first(make_fingerprint: MakeFingerprint) -> None:
    turned = make_fingerprint(spacings=[(0.8, 0.8, 3.0)] * 6, shapes_after_crop=[(200, 210, 40)] * 6)
    straight = make_fingerprint(spacings=[(3.0, 0.8, 0.8)] * 6, shapes_after_crop=[(40, 200, 210)] * 6)
    declaration = make_declaration()
    ours, theirs = (plan(f, declaration, dataset="D") for f in (turned, straight))
    assert ours.transpose_forward == (2, 0, 1)
    assert ours.transpose_backward == (1, 2, 0)
    for name in ("2d", "3d_fullres"):
        assert ours.configuration(name).patch_size == theirs.configuration(name).patch_size
        assert ours.configuration(name).median_shape_voxels == theirs.configuration(name).median_shape_voxels
    assert ours.left_right_axis(3) == 0
    assert ours.left_right_axis(2) is None


def test_single_slices_get_no_3d_configuration(make_fingerprint: MakeFingerprint) -> None:
    flat = make_fingerprint(spacings=[(5.0, 0.8, 0.8)] * 6, shapes_after_crop=[(1, 200, 200)] * 6)
    assert list(plan(flat, make_declaration(), dataset="D").configurations) == ["2d"]


def test_a_given_spacing_wins_and_more_memory_gives_larger_patches(make_fingerprint: MakeFingerprint) -> None:
    large = make_fingerprint(shapes_after_crop=[(300, 500, 500)] * 6)
    declaration = make_declaration()
    coarse = plan(large, declaration, dataset="D", spacing_mm=(4.0, 2.0, 2.0)).configuration("3d_fullres")
    assert coarse.spacing_mm == [4.0, 2.0, 2.0]
    assert coarse.median_shape_voxels == [150, 200, 200]
    small, big = (plan(large, declaration, dataset="D", gpu_memory_gb=gb).configuration("3d_fullres") for gb in (4, 24))
    assert all(a <= b for a, b in zip(small.patch_size, big.patch_size, strict=True))
    assert small.patch_size != big.patch_size


@pytest.mark.parametrize("spacing", [(1000, 1000, 1000), (500, 0.8, 0.8), (0.05, 0.05, 0.05)])
def test_an_absurd_spacing_still_gives_a_valid_plan(
    make_fingerprint: MakeFingerprint, spacing: tuple[float, float, float]
) -> None:
    made = plan(make_fingerprint(), make_declaration(), dataset="D", spacing_mm=spacing)
    assert all(min(c.patch_size) >= 1 for c in made.configurations.values())


def test_the_cases_found_count_where_num_training_is_wrong(make_fingerprint: MakeFingerprint) -> None:
    tiny = {"shapes_after_crop": [(20, 20, 20)] * 6, "spacings": [(1, 1, 1)] * 6}
    measured = make_fingerprint(**tiny, cases=[*"abcdef"])
    foreign = make_fingerprint(**tiny)
    wrong = make_declaration(numTraining=6000)
    right = make_declaration(numTraining=6)
    batch = {
        plan(f, d, dataset="D").configuration("3d_fullres").batch_size
        for f, d in [(measured, wrong), (measured, right), (foreign, right), (foreign, make_declaration())]
    }
    assert len(batch) == 1
    assert plan(foreign, wrong, dataset="D").configuration("3d_fullres").batch_size > batch.pop()


def test_the_order_of_channels_is_that_of_their_numbers(make_fingerprint: MakeFingerprint) -> None:
    one = make_fingerprint().foreground_intensity_properties_per_channel["0"]
    properties = {str(i): one.with_changes(mean=float(i)) for i in sorted(range(11), key=str)}
    fingerprint = make_fingerprint(foreground_intensity_properties_per_channel=properties)
    declaration = make_declaration(channel_names={str(i): f"channel {i}" for i in range(11)})
    made = plan(fingerprint, declaration, dataset="D")
    assert [channel.mean for channel in made.intensities] == [*range(11)]
    with pytest.raises(DataError, match=r"channels 0, 1, 10, .* where dataset.json declares 1"):
        plan(fingerprint, make_declaration(), dataset="D")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"planner": "defalt"}, "did you mean 'default'"),
        ({"gpu_memory_gb": 0.0}, "positive"),
        ({"gpu_memory_gb": float("nan")}, "positive"),
        ({"gpu_memory_gb": float("inf")}, "positive"),
        ({"spacing_mm": (1.0, 0.0, 1.0)}, "three positive numbers"),
        ({"spacing_mm": (1.0, float("nan"), 1.0)}, "three positive numbers"),
        ({"spacing_mm": (1.0, 1.0)}, "three positive numbers"),
    ],
)
def test_senseless_options_are_refused(make_fingerprint: MakeFingerprint, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        plan(make_fingerprint(), make_declaration(), dataset="D", **options)


def test_the_small_planner_halves_the_features(make_fingerprint: MakeFingerprint) -> None:
    ours, default = (
        plan(make_fingerprint(), make_declaration(), dataset="D", planner=name) for name in ("small", "default")
    )
    assert ours.configuration("3d_fullres").network.features_per_stage[:3] == [16, 32, 64]
    assert default.configuration("3d_fullres").network.features_per_stage[:3] == [32, 64, 128]
    assert ours.planner == "small"
    assert {"default", "small"} <= set(PLANNERS)
