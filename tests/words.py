"""A small tokenizer in files of transformers, as published text models have theirs."""

import transformers

from lapa_jax.data import prompts


def save(folder, sentences):
    """One whose words are those of the sentences; returns the folder."""
    words = prompts.train_tokenizer(sentences, 20)._tokenizer
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, bos_token=prompts.BOS).save_pretrained(folder)
    return folder
