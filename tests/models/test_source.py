"""Users' own models: how they are found and called, and the one sentence for everything that can go wrong."""

import hashlib
import os
import sys

import pytest
import torch
from torch import nn

from widestep.errors import UsageError
from widestep.models.build import build_model, model_fingerprint

HEAD = "import torch\nfrom torch import nn\n\n"
NET = HEAD + (
    "class Net(nn.Module):\n"
    "    def __init__(self, num_classes, image_shape):\n"
    "        super().__init__()\n"
    "        self.image_shape = image_shape\n"
    "        self.fc = nn.Linear(image_shape[0] * image_shape[1] * image_shape[2], num_classes)\n"
    "    def forward(self, images):\n"
    "        return self.fc(images.flatten(1))\n"
)


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Write a file in the current directory and build from it."""
    monkeypatch.chdir(tmp_path)

    def from_text(text, name="net.py:Net", **changes):
        (tmp_path / "net.py").write_text(text)
        return build_model(name, **{"num_classes": 4, "image_shape": (3, 8, 6), **changes})

    return from_text


def refusal(build, text, name="net.py:Net", **changes) -> str:
    with pytest.raises(UsageError) as caught:
        build(text, name, **changes)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_class_gets_the_classes_and_the_shape(build):
    model = build(NET)
    assert model.module.image_shape == (3, 8, 6)
    assert model.eval()(torch.zeros(2, 3, 8, 6)).shape == (2, 1, 4)
    assert {name: tuple(view.shape) for name, view in model.slot_parameters(0).items()} == {
        "fc.weight": (4, 144),
        "fc.bias": (4,),
    }


@pytest.mark.parametrize(
    ("signature", "given"),
    [
        ("num_classes", {"num_classes": 4}),
        ("image_shape", {"image_shape": (3, 8, 6)}),
        ("", {}),
        ("width=5, *, image_shape, num_classes=7", {"num_classes": 4, "image_shape": (3, 8, 6)}),
        ("*arguments, num_classes", {"num_classes": 4}),
        ("**options", {"num_classes": 4, "image_shape": (3, 8, 6)}),
    ],
)
def test_a_function_gets_what_its_signature_accepts(build, signature, given):
    body = "    given = locals()\n    net = nn.Linear(144, 4)\n    net.given = given\n    return net\n"
    text = f"{HEAD}def Net({signature}):\n{body}"
    found = build(text).module.given
    found.update(found.pop("options", {}))
    assert {name: value for name, value in found.items() if name in ("num_classes", "image_shape")} == given


def test_options_that_are_passed_on_are_given_up_where_nobody_knows_them(build):
    text = HEAD + (
        "def inner(num_classes=1000):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(144, num_classes))\n"
        "def Net(weights=None, **options):\n"
        "    return inner(**options)\n"
        "class Bare(nn.Sequential):\n"
        "    def __init__(self, **options):\n"
        "        nn.Module.__init__(self, **options)\n"
        "        self.fc = nn.Linear(144, 4)\n"
    )
    assert build(text).module[1].out_features == 4
    assert build(text, "net.py:Bare").module.fc.out_features == 4


def test_an_importable_module(build, tmp_path, monkeypatch):
    package = tmp_path / "lab_of_test_source" / "nets"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "wide.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    name = "lab_of_test_source.nets.wide:Net"
    assert isinstance(build("", name).module.fc, nn.Linear)
    assert model_fingerprint(name) == hashlib.sha256(NET.encode()).hexdigest()
    for loaded in [name for name in sys.modules if name.startswith("lab_of_test_source")]:
        del sys.modules[loaded]


def test_the_fingerprint_is_that_of_the_file(build, tmp_path):
    build(NET)
    assert model_fingerprint("net.py:Net") == hashlib.sha256(NET.encode()).hexdigest()
    assert model_fingerprint(f"{tmp_path / 'net.py'}:Net") == model_fingerprint("net.py:Other")
    (tmp_path / "net.py").write_text(NET + "\n")
    assert model_fingerprint("net.py:Net") == hashlib.sha256(f"{NET}\n".encode()).hexdigest()


def test_a_changed_file_is_loaded_as_it_is_now_though_size_and_time_are_the_same(build, tmp_path, monkeypatch):
    """Bytecode is cached by size and second; the second text differs by one digit."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    found = []
    for width in (2, 3):
        file = tmp_path / "twice.py"
        file.write_text(HEAD + f"def Net():\n    return nn.Linear(1, {width})\n")
        os.utime(file, (1_000_000_000, 1_000_000_000))
        found.append(build("", "twice.py:Net").module.out_features)
    assert found == [2, 3]
    assert not (tmp_path / "__pycache__").exists()


def test_two_files_of_one_name_do_not_clash(build, tmp_path):
    first = build(NET.replace("def forward", "side = 1\n    def forward"))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "net.py").write_text(NET.replace("def forward", "side = 2\n    def forward"))
    second = build_model("sub/net.py:Net", num_classes=4, image_shape=(3, 8, 6))
    assert (first.module.side, second.module.side) == (1, 2)
    assert type(first.module).__module__ != type(second.module).__module__
    assert "net" not in sys.modules


def test_a_file_may_look_itself_up(build):
    """Dataclasses with postponed annotations look into sys.modules."""
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        + NET
        + "@dataclass\nclass Size:\n    width: int\n"
    )
    assert build(text)


@pytest.mark.parametrize(
    "name", ["net.py:", ":Net", "net.py:Net.make", "net.py:3", "my-lab.nets:Net", "lab/nets:Net", "a..b:Net"]
)
def test_names_of_neither_form(build, name):
    assert "FILE.py:NAME or package.module:NAME" in refusal(build, NET, name)


def test_unknown_places(build, tmp_path):
    assert refusal(build, NET, "nets/gone.py:Net") == (
        f"The file of a model must exist, seen from {tmp_path}. There is no nets/gone.py."
    )
    for name in ("no_such_lab.nets:Net", "json.no_such_part:Net", "json.decoder.deeper:Net"):
        message = refusal(build, NET, name)
        assert message.startswith(f"{name.partition(':')[0]} must be an importable Python module.")
        assert "PYTHONPATH" in message
    with pytest.raises(UsageError, match="must exist"):
        model_fingerprint("gone.py:Net")
    (tmp_path / "folder.py").mkdir()
    assert "must exist" in refusal(build, NET, "folder.py:Net")


def test_unknown_and_wrong_attributes(build, tmp_path):
    message = refusal(build, NET, "net.py:Nett")
    assert message == f"{tmp_path / 'net.py'} must define Nett, a class or function; it does not. Perhaps you meant Net."
    assert "an object of the type int" in refusal(build, NET + "width = 3\n", "net.py:width")
    assert "an object of the type Linear" in refusal(build, NET + "made = nn.Linear(1, 1)\n", "net.py:made")


@pytest.mark.parametrize("signature", ["width", "num_classes, /", "num_classes, *, width", "depth, width=3"])
def test_other_required_arguments(build, signature):
    needed = signature.split(",")[0] if "*" not in signature else "width"
    assert refusal(build, HEAD + f"def Net({signature}):\n    pass\n") == (
        "net.py:Net is called with num_classes and image_shape as keywords, so its other arguments need defaults. "
        f"{needed} has none."
    )


@pytest.mark.parametrize(("returned", "said"), [("None", "NoneType"), ("nn.Linear", "type"), ("torch.zeros(3)", "Tensor")])
def test_what_is_not_a_module(build, returned, said):
    message = refusal(build, HEAD + f"def Net():\n    return {returned}\n")
    assert message == f"net.py:Net must return a torch.nn.Module; it returned a {said}."


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("import torch\nx = 1 / 0\n", 2, "must load without an error; it raised ZeroDivisionError: division by zero at {}."),
        ("import torch\n\nimport no_such_thing\n", 3, "ModuleNotFoundError: No module named 'no_such_thing'"),
        ("a = 1\nb = (2\n", 2, "SyntaxError: '(' was never closed"),
        ("import sys\nsys.exit('bye')\n", 2, "SystemExit: bye"),
        ("def Net():\n    make()\n\ndef make():\n    raise ValueError('bad\\n width')\n", 5, "ValueError: bad width"),
        ("def Net():\n    assert 1 == 2\n", 2, "must be built without an error; it raised AssertionError at {}."),
        (HEAD + "def Net():\n    return nn.Linear(3.5, 1)\n", 5, "TypeError"),
        (HEAD + "def Net():\n    return nn.Linear(1, 1, wide=3)\n", 5, "unexpected keyword argument 'wide'"),
    ],
)
def test_errors_of_the_users_code_are_told_with_file_and_line(build, tmp_path, text, line, said):
    message = refusal(build, text)
    place = f"line {line} of {tmp_path / 'net.py'}"
    assert message.startswith("The model net.py:Net must ")
    assert said.format(place) in message
    assert place in message


def test_a_module_that_cannot_be_imported_is_told_with_file_and_line(build, tmp_path, monkeypatch):
    package = tmp_path / "broken_lab_of_test_source"
    package.mkdir()
    (package / "__init__.py").write_text("import no_such_thing\n")
    (package / "nets.py").write_text(NET)
    monkeypatch.syspath_prepend(tmp_path)
    message = refusal(build, NET, "broken_lab_of_test_source.nets:Net")
    assert f"raised ModuleNotFoundError: No module named 'no_such_thing' at line 1 of {package / '__init__.py'}." in message


def test_a_file_that_failed_is_loaded_again(build):
    refusal(build, "raise RuntimeError\n")
    assert "RuntimeError" in refusal(build, "raise RuntimeError\n")
    assert build(NET)


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"x = '\xe9'\n", b"a = 1\0\n"])
def test_a_file_that_is_no_python(build, tmp_path, data):
    (tmp_path / "odd.py").write_bytes(data)
    assert "odd.py:Net must load without an error" in refusal(build, NET, "odd.py:Net")


def test_recipe_fields_that_need_our_layers(build):
    assert "Set stack to 1, not 4." in refusal(build, NET, num_slots=4)
    assert "Set dropout to 0, not 0.5." in refusal(build, NET, dropout=0.5)
    model = build(NET)
    with pytest.raises(UsageError, match=r"zero_gamma needs a model whose layers widestep knows; the model is net\.py:Net"):
        model.initialise(0, 1, zero_gamma=True)
    with pytest.raises(UsageError, match="classifier_std needs"):
        model.initialise(0, 1, classifier_std=0.01)


def test_building_leaves_the_global_generator_as_it_was(build):
    before = torch.get_rng_state()
    build(NET).initialise(0, 5)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_fingerprint_covers_the_users_other_files(build, tmp_path, monkeypatch):
    """Imported directly or through one another, absolutely or within a package; packages that are installed do not count."""
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "parts_of_test_source"
    package.mkdir()
    (package / "__init__.py").write_text("from . import sizes\n")
    (package / "sizes.py").write_text("import numpy\nfrom .deep import WIDTH\n")
    (package / "deep.py").write_text("WIDTH = 3\n")
    source = HEAD + (
        "from parts_of_test_source.sizes import WIDTH\n"
        "def Net(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(192, WIDTH), nn.Linear(WIDTH, num_classes))\n"
    )
    (tmp_path / "net.py").write_text(source)
    first = model_fingerprint("net.py:Net")
    assert first != hashlib.sha256(source.encode()).hexdigest()
    assert model_fingerprint("net.py:Net") == first
    for name in ("deep.py", "sizes.py", "__init__.py"):
        text = (package / name).read_text()
        (package / name).write_text(text + "# other\n")
        assert model_fingerprint("net.py:Net") != first, name
        (package / name).write_text(text)
    assert model_fingerprint("net.py:Net") == first
    for loaded in [name for name in sys.modules if name.startswith("parts_of_test_source")]:
        del sys.modules[loaded]
