"""Reading PyTorch's files: both layouts, safetensors, and files that are damaged or want to run something."""

import collections
import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from pickles import Call, Global, Storage, old_file, old_tensor, old_tensors, tar_file

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
    assert back.keys() == state.keys()
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


def old_state() -> dict[str, np.ndarray]:
    return {"weight": np.arange(12, dtype=np.float32).reshape(4, 3), "bias": np.arange(4, dtype=np.float32)}


def check_old_state(path: Path | str) -> None:
    state = read_state(path)
    assert state.keys() == {"weight", "bias"}
    for key, value in old_state().items():
        np.testing.assert_array_equal(state[key], value)


@pytest.mark.parametrize("evil", [Evil(), [Evil()], collections.OrderedDict(x=Evil()),
                                  Call(Global("os", "system"), "echo evil > evil"),
                                  Call(Global("builtins", "eval"), "open('evil', 'w')"),
                                  Call(Call(Global("builtins", "getattr"), Global("os", "x"), "system"), "x")])
def test_what_else_a_file_calls_is_never_run(tmp_path, monkeypatch, evil):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pth"
    path.write_bytes(old_file({"model": old_tensors(old_state()), "evil": evil}))
    check_old_state(path)
    assert not (tmp_path / "evil").exists()


def test_file_of_a_command_alone_is_refused_unrun(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pth").write_bytes(zipped(pickle.dumps({"weight": Evil()})))
    with pytest.raises(UserError, match="holds no state dict; found the keys 'weight'"):
        read_state("evil.pth")
    assert not (tmp_path / "evil").exists()


def test_training_state_beside_the_weights_stays_inert(tmp_path):
    beside = {
        "args": Call(Global("argparse", "Namespace"), state={"lr": 0.1}),
        "milestones": Call(Global("collections", "Counter"), {30: 1, 60: 1}),
        "best": Call(Global("numpy.core.multiarray", "scalar"), Call(Global("numpy", "dtype"), "f8", 0, 1),
                     Call(Global("_codecs", "encode"), "\x00\xf0?", "latin1")),
        "size": Call(Global("torch", "Size"), (2,)),
        "optimizer": {"state": {0: {"momentum_buffer": old_tensor(np.ones(3, np.float32), "momentum")}},
                      "param_groups": [{"lr": 0.1, "params": [0]}]},
        "hidden": Call(Global("mine", "Holder"), old_tensor(np.ones(2, np.float32), "a hidden one")),
    }
    path = tmp_path / "x.pth"
    path.write_bytes(old_file({**beside, "model": old_tensors(old_state())}))
    check_old_state(path)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_tensors_of_pytorch_0_3(tmp_path, dtype):
    rebuild = Global("torch._utils", "_rebuild_tensor")
    numbers = np.arange(12).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    array = numbers.reshape(3, 4)
    flags = (True, False, collections.OrderedDict())
    path = tmp_path / "x.pth"
    path.write_bytes(old_file({
        "transposed": old_tensor(array.T, "0"),
        "shared": Call(rebuild, Storage("0", numbers), 4, (2, 2), (4, 1)),
        "view": Call(rebuild, Storage("0", numbers, (6, 4)), 1, (3,), (1,)),
        "parameter": Call(Global("torch.nn.parameter", "Parameter"), old_tensor(array, "1"), state=flags),
        "rebuilt": Call(Global("torch._utils", "_rebuild_parameter"), old_tensor(array, "2"), True, {}),
        "scalar": Call(rebuild, Storage("0", numbers), 5, (), ())}))
    state = read_state(path)
    expected = {"transposed": array.T, "shared": array[1:, :2], "view": numbers[7:10], "parameter": array,
                "rebuilt": array, "scalar": numbers[5]}
    assert list(state) == list(expected)
    for key, value in expected.items():
        assert state[key].dtype == numbers.dtype
        np.testing.assert_array_equal(state[key], value, err_msg=key)


NESTINGS = ["net", "model_state_dict", "weights", "ema", "state_dict", "model_ema", "params", "model"]


@pytest.mark.parametrize("name", NESTINGS)
@pytest.mark.parametrize("outer", ["", "model", "state_dict"])
def test_state_dict_nested_under_a_known_name(tmp_path, name, outer):
    content = {"acc": 92.1, name: old_tensors(old_state()), "best": old_tensor(np.ones((), np.float32), "best")}
    path = tmp_path / "x.pth"
    path.write_bytes(old_file({"epoch": 9, outer: content} if outer else content))
    check_old_state(path)


def test_trained_weights_come_before_their_moving_average(tmp_path):
    other = {key: old_tensor(value + 1, f"other {key}") for key, value in old_state().items()}
    (tmp_path / "x.pth").write_bytes(old_file({"model_ema": other, "model": old_tensors(old_state())}))
    check_old_state(tmp_path / "x.pth")


def test_unknown_nesting_lists_the_keys_found(tmp_path):
    (tmp_path / "x.pth").write_bytes(old_file({"student": old_tensors(old_state()), "epoch": 9}))
    with pytest.raises(UserError, match=r"holds no state dict; found the keys 'student' \(dict\), 'epoch' \(int\)"):
        read_state(tmp_path / "x.pth")


@pytest.mark.parametrize("names", [("model", "net", "params"), ("state_dict", "model", "module", "state_dict")])
def test_nestings_of_several_names(tmp_path, names):
    content = old_tensors(old_state())
    for name in reversed(names):
        content = {name: content, "epoch": 9}
    (tmp_path / "x.pth").write_bytes(old_file(content))
    check_old_state(tmp_path / "x.pth")


def test_nesting_without_an_end_is_refused(tmp_path):
    content = {}
    content.update(model=content, net=content, epoch=9)
    (tmp_path / "x.pth").write_bytes(old_file(content))
    with pytest.raises(UserError, match="holds no state dict; found the keys 'model'"):
        read_state(tmp_path / "x.pth")


def test_expanded_tensors_repeat_their_numbers(tmp_path):
    rebuild, row = Global("torch._utils", "_rebuild_tensor_v2"), Storage("0", np.arange(3, dtype=np.float32))
    (tmp_path / "x.pth").write_bytes(old_file({"rows": Call(rebuild, row, 0, (2000, 3), (0, 1)),
                                               "one": Call(rebuild, row, 2, (50, 4, 4), (0, 0, 0))}))
    state = read_state(tmp_path / "x.pth")
    np.testing.assert_array_equal(state["rows"], np.tile(np.arange(3, dtype=np.float32), (2000, 1)))
    np.testing.assert_array_equal(state["one"], np.full((50, 4, 4), 2, np.float32))


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("outer", ["", "model"])
@pytest.mark.parametrize("write", ["torch.save, zip", "torch.save, older", "pickle.dump"])
def test_dicts_of_numpy_arrays(tmp_path, protocol, outer, write):
    content = {"matrix": np.arange(6, dtype=np.float32).reshape(2, 3), "turned": np.arange(6.).reshape(2, 3).T,
               "big": np.arange(3, dtype=">f4"), "half": np.ones(2, np.float16), "count": np.array(7), "empty":
               np.zeros((0, 3), np.float32), "flags": np.array([True, False])}
    beside = {"names": np.array(["a", "b"]), "things": np.array([{}, None]), "best": np.float64(3)}
    whole = {outer: content, **beside} if outer else content | beside
    path = tmp_path / "x.pkl"
    if write == "pickle.dump":
        path.write_bytes(pickle.dumps(whole, protocol))
    else:
        path.write_bytes(zipped(pickle.dumps(whole, protocol)) if "zip" in write else old_file(whole))
    state = read_state(path)
    assert state.keys() == content.keys()
    for key, value in content.items():
        np.testing.assert_array_equal(state[key], value, err_msg=key)
        assert state[key].dtype == value.dtype


@pytest.mark.parametrize("outer", ["", "state_dict"])
def test_the_tar_of_pytorch_before_0_1_10(tmp_path, outer):
    base = np.arange(12, dtype=np.float32)
    arrays = {"weight": base.reshape(4, 3), "turned": base.reshape(4, 3).T, "steps": np.arange(3)}
    path = tmp_path / "x.pth.tar"
    path.write_bytes(tar_file(arrays, outer=outer, view=("tail", "weight", 9)))
    state = read_state(path)
    expected = {**arrays, "tail": base[9:]}
    assert state.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(state[key], value, err_msg=key)
        assert state[key].dtype == value.dtype


@pytest.mark.parametrize("share", [20, 40, 60, 80])
def test_a_tar_of_weights_cut_short_is_refused(tmp_path, share):
    data = tar_file({"weight": np.arange(1200, dtype=np.float32)})
    data = data[:data.rindex(b"ustar")]                     # without the zeros at its end
    (tmp_path / "x.tar").write_bytes(data[:len(data) * share // 100])
    with pytest.raises(UserError, match=r"x\.tar: not readable as PyTorch weights"):
        read_state(tmp_path / "x.tar")


def test_what_a_tar_calls_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.tar").write_bytes(tar_file(old_state(), outer="model", evil=Evil()))
    check_old_state("x.tar")
    assert not (tmp_path / "evil").exists()


def test_numbers_of_a_big_endian_machine_are_refused(tmp_path):
    with zipfile.ZipFile(GOLDEN / "zip.pth") as old, zipfile.ZipFile(tmp_path / "x.pth", "w") as new:
        for info in old.infolist():
            new.writestr(info.filename, b"big" if info.filename.endswith("/byteorder") else old.read(info))
    with pytest.raises(UserError, match="big-endian"):
        read_state(tmp_path / "x.pth")


def test_whole_network_says_what_to_save(tmp_path):
    network = Call(Global("mine", "Net"), state={"_modules": old_tensors(old_state())})
    (tmp_path / "x.pth").write_bytes(old_file(network))
    with pytest.raises(UserError, match=r"found Net, not what its state_dict\(\) gives"):
        read_state(tmp_path / "x.pth")


def test_tensor_of_an_unknown_kind_is_not_dropped(tmp_path):
    sparse = Call(Global("torch._utils", "_rebuild_sparse_tensor"), 1)
    (tmp_path / "x.pth").write_bytes(old_file({**old_tensors(old_state()), "mask": sparse}))
    with pytest.raises(UserError, match=r"not read: mask \(torch._utils._rebuild_sparse_tensor\)"):
        read_state(tmp_path / "x.pth")


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
    ((GOLDEN / "zip.pth").read_bytes()[:200], "a zip file that is cut short"),
    ((GOLDEN / "zip.pth").read_bytes()[:-1], "a zip file that is cut short"),
    (zipped(pickle.dumps({})), "found an empty dict")])
def test_other_files(tmp_path, content, message):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_state(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(("header", "message"), [
    ({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, "invalid shape"),
    ({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}, "not fully covered"),
    ({"w": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}}, "integer `-8`"),
    ({"w": {"dtype": "F8", "shape": [3], "data_offsets": [0, 8]}}, "F8"), ({"w": {}}, "dtype"), ([], "sequence")])
def test_damaged_safetensors_are_refused_by_name(tmp_path, header, message):
    text = json.dumps(header).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(UserError, match=message) as error:
        read_state(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    path.write_bytes(struct.pack("<Q", 10**12))
    with pytest.raises(UserError, match="header too large"):
        read_state(path)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16", "int8", "uint16", "bool"])
def test_safetensors_of_other_dtypes(tmp_path, dtype):
    array = np.arange(4).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    write_safetensors(tmp_path / "x.safetensors", {"w": array})
    back = read_state(tmp_path / "x.safetensors")["w"]
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_home_is_expanded_in_paths_of_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_safetensors("~/x.safetensors", old_state())
    check_old_state(tmp_path / "x.safetensors")
    check_old_state("~/x.safetensors")


def test_missing_file(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_state(tmp_path / "none.pth")
