import signal
import sys
import time

import pytest

from data_lake.errors import UserError
from flows import trainer
from model.config import RecommendConfig


def test_a_mistake_that_the_trainer_tells_is_the_user_s_to_fix(tmp_path):
    folders = ("--data", tmp_path, "--run", tmp_path, "--out", tmp_path)
    with pytest.raises(UserError, match="holds no trained phase"):
        trainer.run_model("recommend", *folders, config=RecommendConfig())


def test_any_other_end_of_the_trainer_shows_its_last_lines(tmp_path):
    with pytest.raises(RuntimeError, match=r"exit code 2[\s\S]*--data"):
        trainer.run_model("recommend", "--run", tmp_path, "--out", tmp_path, config=RecommendConfig())


def test_folders_of_the_user_s_hide_none_of_ours_from_the_trainer(namesakes):
    with pytest.raises(UserError, match="holds no trained phase"):
        trainer.run_model("recommend", "--data", ".", "--run", ".", "--out", ".", config=RecommendConfig())
    trainer.run_model("train", "--help", config=RecommendConfig(), processes=2)


def test_ctrl_c_reaches_a_run_whose_trainer_is_silent():
    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.siginterrupt(signal.SIGALRM, False)  # as polars does it with SIGINT: a blocked read goes on after it
    started = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(KeyboardInterrupt):
            trainer._follow([sys.executable, "-c", "import time; time.sleep(20)"])
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - started < 5
