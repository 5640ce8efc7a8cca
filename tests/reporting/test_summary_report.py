"""`cnnjax summary`: Markdown, JSON, networks side by side, the drawing."""

import json
from xml.etree import ElementTree

import pytest

from cnnjax.errors import UserError
from cnnjax.reporting.summary import run_summary


def test_markdown():
    text = run_summary(["lenet5"])
    assert "| C3 | conv | 10x10x16 | 5x5 | 1 | tanh | 1,516 | 150,000 | 14 |\n" in text
    assert "| total |  |  |  |  |  | 60,000 | 326,520 |  |\n" in text


def test_fields_image_and_classes():
    text = run_summary(["alexnet"], num_classes=7, image=(67, 67), fields={"groups": 1})
    assert "| fc8 | fully connected | 7 |" in text
    assert "groups" not in text
    assert "| image |  | 67x67x3 |" in text


def test_json():
    (network,) = json.loads(run_summary(["googlenet"], form="json"))
    assert network["parameters"] == 13_378_280
    assert network["multiply_adds"] == sum(layer["macs"] for layer in network["layers"])
    assert network["layers"][0]["kernel"] == [7, 7]


def test_side_by_side_as_in_the_figure():
    lines = run_summary(["vgg19", "plain34", "resnet34"], compare=True).splitlines()
    cells = {line.split(" | ")[0].strip("| "): [cell.strip("| ") for cell in line.split(" | ")[1:]] for line in lines}
    assert cells["output"] == ["vgg19", "plain34", "resnet34"]
    assert cells["layers with weights"] == ["19", "34", "34"]
    assert cells["multiply-adds, billions"] == ["19.6", "3.64", "3.66"]
    assert cells["14x14"][1] == "3x3 conv 256 /2<br>3x3 conv 256 × 11"


def test_drawing(tmp_path):
    run_summary(["resnet20"], draw=tmp_path / "x.svg")
    svg = ElementTree.fromstring((tmp_path / "x.svg").read_text())
    texts = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert texts[0] == "resnet20: 269,722 parameters, 40,551,040 multiply-adds"
    assert "stage3_block1" in texts
    paths = [element.get("d") for element in svg.iter("{http://www.w3.org/2000/svg}path")]
    assert sum(" C" in path for path in paths) == 9                             # shortcuts


@pytest.mark.parametrize(("name", "parameters", "layers"), [
    ("fast_yolo", 45_089_374, 12), ("yolo", 271_703_550, 26), ("ssd", 26_285_486, 35)])
def test_a_detector_has_the_parameters_of_its_paper(name, parameters, layers):
    (network,) = json.loads(run_summary([name], form="json"))
    assert network["parameters"] == parameters
    assert sum(layer["macs"] > 0 for layer in network["layers"]) == layers


def test_a_detector_in_two_stages_has_the_layers_of_one_region():
    (network,) = json.loads(run_summary(["fast_rcnn"], form="json", image=(64, 64)))
    rows = {layer["name"]: layer for layer in network["layers"]}
    assert rows["trunk/net/conv5_3"]["output"] == [4, 4, 512]
    assert rows["roi_heads/head/fc6"]["parameters"] == (7 * 7 * 512 + 1) * 4096
    assert rows["roi_heads/head/fc6"]["receptive_field"] is None
    assert rows["roi_heads/classes"]["output"] == [21]
    assert rows["roi_heads/boxes"]["output"] == [80]


@pytest.mark.parametrize(("call", "message"), [
    (lambda: run_summary(["lenet"]), "unknown network 'lenet'; did you mean 'lenet5'?"),
    (lambda: run_summary(["lenet5"], form="yaml"), "form: found 'yaml', expected"),
    (lambda: run_summary(["lenet5", "vgg11"], draw="x.svg"), "draw: draws one network to an .svg file, found 2"),
    (lambda: run_summary(["lenet5"], draw="x.png"), "draw: draws one network to an .svg file, found 1 networks and"),
    (lambda: run_summary(["resnet20"], image=(0, 3)), "image: found (0, 3), expected height"),
    (lambda: run_summary(["lenet5"], image=(40, 40)), "lenet5 takes images of 28x28 or 32x32, found 40x40"),
    (lambda: run_summary(["alexnet"], image=(30, 30)), "fc6: no pixel of the image is left (0x0)"),
    (lambda: run_summary(["alexnet"], fields={"hidden": "many"}), "image None, fields {'hidden': 'many'}: no such"),
])
def test_mistakes_are_one_line(call, message):
    with pytest.raises(UserError) as error:
        call()
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)
