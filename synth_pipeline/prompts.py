"""Prompts that are longer than what the base model reads."""

import unicodedata
from collections.abc import Iterable, Mapping

from synth_pipeline.base_model import BaseModel
from synth_pipeline.config import StudyConfig
from synth_pipeline.weight_files import read_json

#: So many classes are named, of each its number of tokens.
_NAMED = 5


def cut_prompts(config: StudyConfig, base: BaseModel, class_names: Iterable[str]) -> list[str]:
    """A sentence for each kind of prompt whose end the base model does not read.

    A text encoder reads a fixed number of tokens (77 for Stable Diffusion), and the tokenizer cuts
    the rest without a word.

    Args:
        config: for the prompts.
        base: whose tokenizer counts.
        class_names: as prompts call the classes.
    """
    tuning = config.dreambooth
    named = {name: tuning.instance_prompt.format(class_name=name) for name in class_names}
    told = _told(named, base, "dreambooth.instance_prompt or the classes' names")
    if not told and config.sampling.vary:
        # The longest words, which may meet in one image.
        words = [max(each, key=len) for each in config.sampling.vary.values()]
        varied = {name: ", ".join([prompt, *words]) for name, prompt in named.items()}
        told = _told(varied, base, "the words of sampling.vary")
    if tuning.prior_weight:
        told += _told({"": tuning.class_prompt}, base, "dreambooth.class_prompt")
    return told


def _told(prompts: Mapping[str, str], base: BaseModel, shorten: str) -> list[str]:
    config = read_json(base.folder / "tokenizer" / "tokenizer_config.json")
    most = int(config["model_max_length"])
    # A token is one byte or more, and two mark the ends: most prompts need no tokenizer, whose
    # library takes seconds to import.
    long = {name: prompt for name, prompt in prompts.items() if _bytes(prompt) + 2 > most}
    if not long:
        return []
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(base.folder / "tokenizer", local_files_only=True)
    # Longer than what is read is what is asked about, so the library's warning of it says nothing.
    counted = {
        name: len(tokenizer(prompt, verbose=False).input_ids) for name, prompt in long.items()
    }
    over = {name: count for name, count in counted.items() if count > most}
    if not over:
        return []
    if "" in over:
        return [
            f"The class prompt has {over['']} tokens and the base model reads {most}, so its end "
            f"is not read; shorten {shorten}."
        ]
    listed = [f"{name} ({count} tokens)" for name, count in list(over.items())[:_NAMED]]
    if len(over) > _NAMED:
        listed.append(f"{len(over) - _NAMED} more")
    which = "The prompt of this class is" if len(over) == 1 else "The prompts of these classes are"
    return [
        f"{which} longer than the {most} tokens that the base model reads, so the end is not "
        f"read: {', '.join(listed)}; shorten {shorten}."
    ]


def _bytes(prompt: str) -> int:
    """Length in bytes as the tokenizer reads it: composed, in lower case."""
    return len(unicodedata.normalize("NFC", prompt).lower().encode(errors="replace"))
