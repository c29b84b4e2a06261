"""The options that are made from the fields of Recipe, Sampling, UNet and MLP: each stated once."""

import argparse
import dataclasses

import pytest

from tinyddpm.cli import commands, options
from tinyddpm.nn.mlp import MLP
from tinyddpm.nn.unet import UNet
from tinyddpm.settings import Recipe, Sampling, setting

# What the command line has no option for, or one without a default of its own: the data and the
# backend give the first two, --no-clip sets the third to None.
NO_OPTIONS = {"levels", "shards", "clip"}


def parse(*argv):
    """The options of a command line, and the actions of its command by destination."""
    parser = options.parser(*[print] * 7)
    (commands,) = [action for action in parser._actions if isinstance(action.choices, dict)]
    actions = {action.dest: action for action in commands.choices[argv[0]]._actions}
    return parser.parse_args(argv), actions


def names(owner):
    """The fields of a dataclass that have options."""
    return {field.name for field in dataclasses.fields(owner)} - NO_OPTIONS


@pytest.mark.parametrize(
    "owner, argv", [(Recipe, ["train"]), (Sampling, ["sample", "r"]), (Sampling, ["eval", "r"])]
)
def test_every_field_is_an_option_with_its_default_and_help(owner, argv):
    given, actions = parse(*argv)
    assert names(owner) <= set(actions)
    for field in dataclasses.fields(owner):
        if field.name in names(owner) - {"seed", "steps"}:
            # unset until given: what is resumed, or a published model, has its own
            unshown = field.default is None or field.default is False
            default = "" if unshown else f" (default: {field.default})"
            assert getattr(given, field.name) is None
            assert actions[field.name].help == field.metadata["help"] + default
            choices = set(field.metadata["choices"] or ()) - {None}
            assert set(actions[field.name].choices or ()) == choices


def test_steps_is_unset_until_given_and_shows_the_recipes_default():
    given, actions = parse("train")
    assert given.steps is None and f"(default: {Recipe().steps})" in actions["steps"].help


def test_a_networks_options_are_its_fields_and_unset_until_given():
    given, actions = parse("train")
    for owner, known in ((UNet, options.UNET), (MLP, options.PERCEPTRON)):
        fields = {field.name: field for field in dataclasses.fields(owner) if field.metadata}
        assert set(fields) == set(known)
        for name in known:
            assert getattr(given, name) is None
            assert actions[name].help == fields[name].metadata["help"]
    given, _ = parse("train", "--mults", "1", "2", "--attention", "--base", "8")
    assert (given.mults, given.attention, given.base) == ([1, 2], [], 8)


def test_types_are_those_of_the_fields():
    given, _ = parse("train", "--batch", "8", "--ema", "0.5", "--vlb", "1", "--decay", "constant")
    assert [given.batch, given.ema, given.vlb, given.decay] == [8, 0.5, 1.0, "constant"]
    assert isinstance(given.vlb, float)
    given, _ = parse("sample", "r", "--steps", "5", "--spacing", "logsnr")
    assert (given.steps, given.spacing) == (5, "logsnr")


def test_a_new_field_becomes_an_option_of_its_type():
    @dataclasses.dataclass
    class Settings:
        widths: tuple[float, ...] = setting((1.0,), "of each layer", metavar="W")
        most: int | None = setting(None, "at most")
        kind: str = setting("a", "which", choices=("a", "b"))

    parser = argparse.ArgumentParser()
    for name in ("widths", "most", "kind"):
        options._add(parser, Settings, name)
    given = parser.parse_args(["--widths", "2", "0.5", "--most", "3", "--kind", "b"])
    assert vars(given) == {"widths": [2.0, 0.5], "most": 3, "kind": "b"}
    with pytest.raises(SystemExit):
        parser.parse_args(["--kind", "c"])


def test_help_shows_defaults_that_are_zero(capsys):
    for command, shown in (
        ("train", ["decay (default: 0.0)", "of every random number (default: 0)"]),
        ("sample", ["of the noise (default: a new one", "as much as ancestral (default: 0.0)"]),
    ):
        with pytest.raises(SystemExit):
            commands.main([command, "--help"])
        text = " ".join(capsys.readouterr().out.split())
        assert all(words in text for words in shown) and "None" not in text
        assert "default: False" not in text


def test_eval_keeps_how_the_samples_were_drawn():
    assert {*names(Sampling), "clip", "seed", "guidance"} == set(commands.RECORDED)
