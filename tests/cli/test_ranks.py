"""The options that say how a batch is shared: in how many shards, by how many processes."""

from tinyddpm.cli import commands
from tinyddpm.runs import checkpoint

TINY = ["--hidden", "4", "--layers", "1", "--batch", "6", "--T", "12"]


def test_the_shards_are_the_runs_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "_draw_run", lambda *_: None)
    for words, shards in (([], 2), (["--shards", "3"], 3)):
        out = f"r{shards}"
        train = ["train", "moons", "--steps", "1", "--out", out, *TINY, *words]
        assert commands.main(train) == 0
        assert checkpoint.load(out)[1]["recipe"]["shards"] == shards
    again = ["train", "--resume", "r3", "--steps", "2"]
    capsys.readouterr()
    assert commands.main([*again, "--shards", "2"]) == 2
    assert "shards: 3 saved, 2 given" in capsys.readouterr().err
    assert commands.main(again) == 0
    assert checkpoint.load("r3")[1]["recipe"]["shards"] == 3
