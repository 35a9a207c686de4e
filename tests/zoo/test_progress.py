"""What an experiment tells of its progress."""

from zoo import progress


def words(text):
    return " ".join(text.split())


def test_a_long_epoch_is_shown_now_and_then(monkeypatch, capsys):
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    shown = progress.ExperimentProgress(epochs=4)
    lines = []
    for step in range(10):
        now = 25.0 * step
        shown.step("das, seed 0", 4, 0, step, 10)
        lines.append(capsys.readouterr().err)
    # At most a line a minute where nobody watches; a tenth of the first of four epochs takes 25 seconds.
    assert [number for number, line in enumerate(lines) if line] == [3, 6, 9]
    assert words(lines[3]) == "das, seed 0 epoch 1/4, step 3/10 15:25 left"
    now = 250.0
    shown.epoch("das, seed 0", 4, 1, {"loss": 0.5, "val_recall@1": 0.25, "weight": 3.0})
    assert words(capsys.readouterr().err) == "das, seed 0 epoch 1/4 12:30 left loss 0.5000 recall@1 0.2500"
    now = 320.0
    shown.step("das, seed 0", 4, 1, 2, 10)
    # With the numbers of the epoch before.
    assert words(capsys.readouterr().err).endswith("step 2/10 12:26 left loss 0.5000 recall@1 0.2500")
