"""Reading PyTorch's files: both layouts, safetensors, and files that are damaged or want to run something."""

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cnnjax.errors import UserError
from cnnjax.interop import read_state, write_safetensors

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("file", ["zip.pth", "legacy.pth"])
def test_state_dicts_of_torch(file):
    state = read_state(GOLDEN / file)
    base = np.arange(12, dtype=np.float32)
    expected = {"weight": base.reshape(3, 4).T, "tail": base[8:], "half": base.astype(np.float16), "brain": base,
                "steps": np.array(7), "flags": base > 5, "parameter": base[:2], "empty": np.zeros((0, 3))}
    assert list(state) == list(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(state[key].astype(value.dtype), value, err_msg=key)
    assert [state[key].dtype.name for key in ("weight", "half", "brain", "steps", "flags")] == [
        "float32", "float16", "bfloat16", "int64", "bool"]


def test_safetensors_round_trip(tmp_path):
    state = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3).T, "n": np.array(5), "e": np.zeros((0, 2))}
    write_safetensors(tmp_path / "x.safetensors", state)
    back = read_state(tmp_path / "x.safetensors")
    assert list(back) == list(state)
    for key, value in state.items():
        np.testing.assert_array_equal(back[key], value)
        assert back[key].dtype == value.dtype


class Evil:
    """Its pickle runs a command."""

    def __reduce__(self):
        return os.system, ("echo evil > evil",)


def zipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", data)
    return buffer.getvalue()


@pytest.mark.parametrize("wrap", [zipped, bytes])
def test_pickles_that_call_anything_else_are_refused_unrun(tmp_path, monkeypatch, wrap):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pth"
    path.write_bytes(wrap(pickle.dumps({"weight": Evil()})))
    with pytest.raises(UserError, match=r"evil.pth: .*asks for posix.system, which no state dict needs"):
        read_state(path)
    assert not (tmp_path / "evil").exists()


def reaching_beyond(tmp_path: Path) -> Path:
    """zip.pth with one storage of its numbers replaced by fewer."""
    path = tmp_path / "short.pth"
    with zipfile.ZipFile(GOLDEN / "zip.pth") as old, zipfile.ZipFile(path, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            new.writestr(info.filename, data[:8] if info.filename.endswith("/data/0") else data)
    return path


def test_storages_cut_short(tmp_path):
    with pytest.raises(UserError, match="storage 0 is cut short"):
        read_state(reaching_beyond(tmp_path))


@pytest.mark.parametrize(("content", "message"), [
    (b"", "not readable"), (b"garbage", "not readable"), (zipped(pickle.dumps({"epoch": 3})), "holds no state dict"),
    (zipped(pickle.dumps([1, 2])), "holds no state dict"), (pickle.dumps(1), "neither a zip file nor"),
    ((GOLDEN / "legacy.pth").read_bytes()[:-9], "cut short"),
    ((GOLDEN / "zip.pth").read_bytes()[:200], "not readable")])
def test_other_files(tmp_path, content, message):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_state(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(("header", "message"), [
    ({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, "w does not fit"),
    ({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}, "w does not fit"),
    ({"w": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}, "w does not fit"),
    ({"w": {"dtype": "F8", "shape": [3], "data_offsets": [0, 8]}}, "F8"), ({"w": {}}, "dtype"), ([], "not readable")])
def test_damaged_safetensors(tmp_path, header, message):
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(UserError, match=message):
        read_state(path)
    path.write_bytes(struct.pack("<Q", 10**12))
    with pytest.raises(UserError, match="cut short"):
        read_state(path)


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_state(tmp_path / "none.pth")
