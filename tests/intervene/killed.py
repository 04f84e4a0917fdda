"""Train, and be killed in the middle of saving the second checkpoint.

Run: python tests/intervene/killed.py FOLDER weights|optimizer|record
"""

import os
import signal
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "src")]


def main(folder, moment):
    import torch

    from conftest import build
    from intervene.finetuning import DATA, SMALL, tokenizer
    from safetypin.intervene import Full, _checkpoints, _trainer, finetune

    owner, name = {
        "weights": (_trainer, "save_checkpoint"),
        "optimizer": (torch, "save"),
        "record": (_checkpoints, "payload_hashes"),
    }[moment]
    whole = getattr(owner, name)
    saved = set()

    def killed(*args, **options):
        path = next(str(part) for part in args if "checkpoint-" in str(part))
        saved.add(path.partition("checkpoint-")[2][0])
        made = whole(*args, **options)
        if "4" in saved:
            os.kill(os.getpid(), signal.SIGKILL)
        return made

    setattr(owner, name, killed)
    options = {"max_steps": 6, "save_steps": 2}
    training = type(SMALL)(**{**vars(SMALL), **options})
    finetune(build("llama"), tokenizer(), DATA, protect=Full(), training=training, out=folder)


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    main(sys.argv[1], sys.argv[2])
