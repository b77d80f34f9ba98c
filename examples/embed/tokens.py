"""The tokens of a prompt, as JSON on the standard output: what `embed`, which has no tokenizer, reads.

    python examples/embed/tokens.py MODEL "a red circle left of a blue square" > tokens.json

MODEL is a folder that `pydiff export` wrote. Row 0 is the prompt, row 1 the negative prompt, by default the empty one.
"""

from __future__ import annotations

import argparse
import json

import pydiff


def tokens(model: str, prompt: str, negative: str) -> dict[str, list[list[int]]]:
    """Rows of ids and masks, of the length that the text encoder reads at once. ValueError for a prompt that is longer
    and for a model that reads no words."""
    encoders = [stage.text for stage in pydiff.load(model).cascade.stages if stage.text is not None]
    if not encoders:
        raise ValueError(f"{model} reads no words; give embed any file that holds rows of tokens")
    encoder, prompts = encoders[0], [prompt, negative]
    encoder.check(prompts)
    tokenizer = encoder.tokenizers[0]
    rows = tokenizer.rows(tokenizer.read([encoder.as_read(text) for text in prompts], weighting=False), windows=1)
    return {"input_ids": rows.ids.tolist(), "attention_mask": rows.mask.astype(int).tolist()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("prompt")
    parser.add_argument("--negative", default="", metavar="PROMPT")
    said = parser.parse_args()
    print(json.dumps(tokens(said.model, said.prompt, said.negative)))
