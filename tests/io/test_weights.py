from __future__ import annotations

import json
import os
import pickle
import struct

import pytest
import torch
from safetensors.torch import save_file

from autoseg.core.errors import DataError
from autoseg.io.weights import CHECKSUMS_KEY, METADATA_KEY, load_weights, save_weights

FACTS = {"recipe": {"epochs": 1000, "rate": 0.1 + 0.2}, "names": ["ünï", None, True], "n": 2**60}


def _tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tied = torch.randn(4, 3, generator=generator)
    return {
        "conv.weight": torch.randn(5, 4, 3, 3, 3, generator=generator).to(memory_format=torch.channels_last_3d),
        "special": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]),
        "half": torch.randn(7, generator=generator).half(),
        "bfloat": torch.randn(7, generator=generator).bfloat16(),
        "double": torch.randn(2, generator=generator).double(),
        "steps": torch.tensor(3),
        "mask": torch.tensor([True, False]),
        "empty": torch.empty(0, 3),
        "transposed": torch.randn(4, 6, generator=generator).T,
        "tied.a": tied,
        "tied.b": tied,
        "view": tied[1],
        "leaf": torch.nn.Parameter(torch.ones(2)),
    }


def _bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def test_tensors_and_facts_come_back_bit_identical(tmp_path):
    save_weights(tmp_path / "weights.safetensors", _tensors(), facts=FACTS)
    tensors, facts = load_weights(tmp_path / "weights.safetensors")
    assert facts == FACTS
    assert tensors.keys() == _tensors().keys()
    for name, expected in _tensors().items():
        assert tensors[name].dtype == expected.dtype
        assert tensors[name].shape == expected.shape
        assert _bits(tensors[name]) == _bits(expected), name


def test_a_network_gives_the_same_output_with_loaded_weights(tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.InstanceNorm3d(2, affine=True))
    save_weights(tmp_path / "w.safetensors", network.state_dict(), facts={})
    other = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.InstanceNorm3d(2, affine=True))
    other.load_state_dict(load_weights(tmp_path / "w.safetensors")[0])
    image = torch.ones(1, 1, 5, 5, 5)
    assert torch.equal(network(image), other(image))


def test_the_same_content_gives_the_same_bytes(tmp_path):
    for name in "ab":
        save_weights(tmp_path / name, _tensors(), facts=FACTS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_failed_save_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.ones(2)}, facts={"epoch": 1})
    with pytest.raises(ValueError, match="JSON"):
        save_weights(path, {"a": torch.zeros(2)}, facts={"loss": float("nan")})

    def fail(*arguments: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_weights(path, {"a": torch.zeros(2)}, facts={"epoch": 2})
    monkeypatch.undo()
    tensors, facts = load_weights(path)
    assert facts == {"epoch": 1}
    assert torch.equal(tensors["a"], torch.ones(2))
    assert len(list(tmp_path.iterdir())) == 1


def test_loaded_tensors_outlive_a_new_file_of_the_same_name(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.ones(2000)}, facts={})
    tensors, _ = load_weights(path)
    tensors["a"] += 1
    save_weights(path, {"a": torch.zeros(2000)}, facts={})
    assert (tensors["a"] == 2).all()
    assert (load_weights(path)[0]["a"] == 0).all()


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 100, 0.5, 0.99, -1])
def test_truncated_files_are_refused(tmp_path, kept):
    path = tmp_path / "w.safetensors"
    save_weights(path, _tensors(), facts=FACTS)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))] if isinstance(kept, float) else content[:kept])
    with pytest.raises(DataError, match=r"no intact safetensors file.*; copy or export") as caught:
        load_weights(path)
    assert caught.value.problems[0].file == str(path)


class _Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("executed",)


def test_pickles_are_refused_and_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.safetensors"
    path.write_bytes(pickle.dumps(_Hostile()))
    with pytest.raises(DataError):
        load_weights(path)
    torch.save({"a": _Hostile()}, path)
    with pytest.raises(DataError):
        load_weights(path)
    assert not (tmp_path / "executed").exists()


def _file(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def _tensor(dtype: str = "F32", shape: list[int] | None = None, end: int = 8) -> dict[str, object]:
    return {"dtype": dtype, "shape": [2] if shape is None else shape, "data_offsets": [0, end]}


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**30) + b"{}",
        _file(b"\xff\xfe"),
        _file(b"[" * 100_000),
        _file([1, 2]),
        _file({"a": _tensor(end=2**50)}),
        _file({"a": _tensor(shape=[2**40, 2**40])}, bytes(8)),
        _file({"a": _tensor(shape=[-2])}, bytes(8)),
        _file({"a": _tensor(dtype="PICKLE")}, bytes(8)),
        _file({"a": _tensor(), "b": _tensor()}, bytes(8)),
        _file({"a": {}}, bytes(8)),
        _file({"a": _tensor(), "__metadata__": {"autoseg": 5}}, bytes(8)),
        _file({"a": _tensor(), "__metadata__": {"autoseg": "no json"}}, bytes(8)),
        _file({"a": _tensor(), "__metadata__": {"autoseg": "[1]"}}, bytes(8)),
        _file({"a": _tensor(), "__metadata__": {"autoseg": "[" * 50_000}}, bytes(8)),
        _file({"a": _tensor(), "__metadata__": {"autoseg": "9" * 10_000}}, bytes(8)),
        _file({"a": _tensor(), "__metadata__": {"autoseg": json.dumps({"a": " " * 2**24})}}, bytes(8)),
    ],
    ids=lambda content: str(content[8:60]),
)
def test_hostile_files_are_refused(tmp_path, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError):
        load_weights(path)


def test_changed_bytes_in_the_header_never_escape_as_other_errors(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.ones(2), "b": torch.ones(3).half()}, facts={"x": 1})
    content = path.read_bytes()
    for position in range(8 + struct.unpack_from("<Q", content)[0]):
        for flip in (0x01, 0x80):
            changed = bytearray(content)
            changed[position] ^= flip
            path.write_bytes(changed)
            try:
                load_weights(path)
            except DataError:
                continue


def test_safetensors_of_other_programs_are_refused_with_advice(tmp_path):
    path = tmp_path / "w.safetensors"
    for metadata in (None, {"format": "pt"}):
        save_file({"a": torch.ones(2)}, path, metadata=metadata)
        with pytest.raises(DataError, match="not written by autoseg; give the weights"):
            load_weights(path)


@pytest.mark.parametrize("name", ["missing.safetensors", "folder"])
def test_a_path_without_a_file_is_refused(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="does not exist"):
        load_weights(tmp_path / name)


def test_facts_and_checksums_lie_under_one_key_of_the_metadata(tmp_path):
    from safetensors import safe_open

    save_weights(tmp_path / "w.safetensors", {"a": torch.ones(1)}, facts=FACTS)
    with safe_open(tmp_path / "w.safetensors", framework="pt") as file:
        assert [*file.metadata()] == [METADATA_KEY]
        found = json.loads(file.metadata()[METADATA_KEY])
        assert [*found.pop(CHECKSUMS_KEY)] == ["a"]
        assert found == FACTS


@pytest.mark.parametrize("place", [0.001, 0.5, 0.999])
def test_a_flipped_bit_in_a_tensor_is_noticed(tmp_path, place):
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": torch.randn(50), "b": torch.randn(5, 7).half()}, facts=FACTS)
    content = bytearray(path.read_bytes())
    first = 8 + struct.unpack("<Q", content[:8])[0]
    content[first + int(place * (len(content) - first))] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="is not as it was written"):
        load_weights(path)


@pytest.mark.parametrize("checksums", [[1], "text", {"a": 1}, {"gone": 0}])
def test_checksums_that_say_nothing_true_are_refused(tmp_path, checksums):
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.ones(3)}, path, metadata={METADATA_KEY: json.dumps({CHECKSUMS_KEY: checksums})})
    with pytest.raises(DataError):
        load_weights(path)


def test_files_of_earlier_versions_have_no_checksums(tmp_path):
    save_file({"a": torch.ones(3)}, tmp_path / "w.safetensors", metadata={METADATA_KEY: "{}"})
    assert load_weights(tmp_path / "w.safetensors")[0]["a"].sum() == 3
