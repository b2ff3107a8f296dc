"""A process of `torchrun`: trains, one after the other, the runs that a JSON file lists."""

import json
import sys
from pathlib import Path

from gankernels.errors import InputError
from gankernels.training import PlainProgress, TrainConfig, train

for values in json.loads(Path(sys.argv[1]).read_text()):
    config = TrainConfig.from_json(values)
    try:
        result = train(config, PlainProgress())
    except InputError as error:
        print(f"refused {config.out}: {error}", flush=True)
    else:
        print(f"trained {config.out}: {result.step}", flush=True)
