#!/usr/bin/env python3
"""Writes `config.transformers5.json` beside each `config.json` of fixtures/architectures: the same configuration as
transformers 5 writes it, with all that concerns positions in `rope_parameters`.

Not part of the tests; to be run by hand after make_architectures.py, with transformers 5 alone (5.24.0 made what is
committed; no torch): `pip install 'transformers>=5' && python3 models/tests/make_newer_configs.py`.
"""

import pathlib

import transformers

FOLDER = pathlib.Path(__file__).resolve().parent / "fixtures" / "architectures"

for directory in sorted(FOLDER.iterdir()):
    configuration = transformers.AutoConfig.from_pretrained(directory)
    (directory / "config.transformers5.json").write_text(configuration.to_json_string(use_diff=True))
