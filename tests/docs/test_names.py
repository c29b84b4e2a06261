"""The package in hand: old names, short texts for objects, pictures shown where one works."""

import importlib
import types

import numpy as np
import pytest
from PIL import Image, ImageShow

import tinyddpm as td
from tinyddpm import process, renamed
from tinyddpm.runs import progress


def test_old_names_lead_to_the_new_ones_with_a_warning():
    for old, new in renamed.FUNCTIONS.items():
        with pytest.warns(DeprecationWarning, match=f"{old} is now tinyddpm.{new}; the old name"):
            assert getattr(td, old) is getattr(process, new)
    for old, new in renamed.MODULES.items():
        with pytest.warns(DeprecationWarning, match=f"tinyddpm.{old} is now tinyddpm.{new};"):
            assert getattr(td, old) is importlib.import_module(f"tinyddpm.{new}")
        with pytest.raises(ImportError, match=rf"tinyddpm\.{old} is now tinyddpm\.{new}: import"):
            importlib.import_module(f"tinyddpm.{old}")
    with pytest.raises(ModuleNotFoundError, match="No module named 'tinyddpm.nothing'"):
        importlib.import_module("tinyddpm.nothing")
    with pytest.raises(AttributeError, match="has no attribute 'predict_y'"):
        _ = td.predict_y
    assert not set(td.__all__) & {*renamed.FUNCTIONS, *renamed.MODULES}


def test_objects_have_short_texts():
    points = np.linspace(-1, 1, 8).reshape(4, 2)
    model = td.train(points, 1, batch=2, net=td.MLP(hidden=8, layers=1), schedule=td.linear(10))
    # 2 x 8 + 8 in, 8 x 8 twice and a scale in the block, ...: counted from the vector itself
    assert repr(model) == f"Model(MLP for 2, {model.theta.size} parameters, T = 10, target v)"
    # alpha_bar_1 = 1 - 0.1 and alpha_bar_2 = 0.9 x 0.5
    assert repr(td.Schedule([0, 0.1, 0.5])) == "Schedule(T = 2, alpha_bar from 0.9 to 0.45)"
    assert repr(td.Recipe()) == "Recipe()"
    assert repr(td.Recipe(steps=7, target="x0")) == "Recipe(steps=7, target='x0')"


def test_a_model_samples_by_itself():
    points = np.linspace(-1, 1, 8).reshape(4, 2)
    model = td.train(points, 1, batch=2, net=td.MLP(hidden=8, layers=1), schedule=td.linear(10))
    found = model.sample(3, 5, steps=4)
    np.testing.assert_array_equal(found, td.sample(model, 3, 5, steps=4))


def test_images_are_shown_in_a_new_file_where_there_is_no_screen(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    for number, images in ((1, np.zeros((4, 6, 6, 1))), (2, np.zeros((4, 2)))):
        path = td.show(images)
        assert str(path) == f"shown-{number}.png" and capsys.readouterr().out == f"{path}\n"
        with Image.open(tmp_path / path) as image:
            assert min(image.size) > 200
    with pytest.raises(td.InputError):
        td.show(np.zeros((4, 6, 6)))


def test_images_are_shown_in_a_window_or_below_a_notebooks_cell(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISPLAY", ":0")
    seen = []
    monkeypatch.setattr(ImageShow, "show", lambda image, title: seen.append(image) or True)
    assert td.show(np.zeros((4, 6, 6, 1))) is None and len(seen) == 1
    display = types.SimpleNamespace(display=seen.append)
    shell = types.SimpleNamespace(config={"IPKernelApp": {}})
    notebook = types.SimpleNamespace(get_ipython=lambda: shell, display=display)
    monkeypatch.setitem(progress.sys.modules, "IPython", notebook)
    assert td.show(np.zeros((4, 6, 6, 1))) is None and len(seen) == 2
    assert all(isinstance(image, Image.Image) for image in seen) and not list(tmp_path.iterdir())
