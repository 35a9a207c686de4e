"""A Ctrl-C that Python drops, because it falls into a weak reference's callback, ends a training all the same."""

import dataclasses
import signal
import threading
import weakref

import keras
import numpy as np
import pytest

from keras_dml.data import load
from zoo import recipes, training
from zoo.interruption import Interruption
from zoo.runs import checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Something:
    pass


def lose_an_interrupt():
    something = Something()
    _reference = weakref.ref(something, lambda _: signal.raise_signal(signal.SIGINT))
    del something


@pytest.mark.parametrize("lost_at", [1, 3])
def test_fit_ends_with_the_running_batch(lost_at):
    seen = []

    class Losing(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(batch)
            if batch == lost_at:
                lose_an_interrupt()

        def on_epoch_end(self, epoch, logs=None):
            seen.append("epoch")

    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile(loss="mse")
    with pytest.raises(KeyboardInterrupt), Interruption() as interruption:
        model.fit(np.zeros((4, 1)), np.zeros((4, 1)), 1, epochs=2, verbose=0, callbacks=[interruption, Losing()])
    assert seen == list(range(lost_at + 1))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_end_of_the_context_ends_it_too():
    with pytest.raises(KeyboardInterrupt), Interruption():
        lose_an_interrupt()
    with Interruption():
        pass


def test_an_error_of_the_training_comes_first():
    def train():
        with Interruption():
            lose_an_interrupt()
            raise ValueError("of its own")

    with pytest.raises(ValueError, match="of its own"):
        train()


def test_handlers_of_others_stay():
    def own(number, frame):
        pass

    former = signal.signal(signal.SIGINT, own)
    try:
        with Interruption():
            assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, former)


def test_a_thread_installs_no_handler():
    found = []

    def enter():
        with Interruption():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]


class Losing(training.Watcher):
    def on_epoch(self, epochs, logs):
        lose_an_interrupt()


def test_a_run_ends_and_keeps_its_finished_epochs(tmp_path):
    recipe = dataclasses.replace(recipes.get("digits"), epochs=3, backbone_options={"widths": (4,)})
    with pytest.raises(KeyboardInterrupt):
        training.train(recipe, "baseline", 5, load("digits"), tmp_path, Losing())
    assert checkpoint.epochs_done(tmp_path) == 1
