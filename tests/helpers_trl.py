"""Tiny SFTTrainers for the tests of TRL."""

import torch
from datasets import Dataset
from helpers_transformers import flat
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    PreTrainedTokenizerFast,
    set_seed,
)
from trl import SFTConfig, SFTTrainer

N = 12
WORDS = [f"w{k}" for k in range(20)]
CHAT = (
    "{% for m in messages %}{{ m['role'] }} {% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] }} end {% endgeneration %}{% else %}{{ m['content'] }} {% endif %}{% endfor %}"
)


def tokenizer():
    special = ["<pad>", "<eos>", "user", "assistant", "end"]
    words = {word: k for k, word in enumerate([*special, *WORDS])}
    made = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    found = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<eos>")
    found.chat_template = CHAT
    return found


def text(i, start, count):
    return " ".join(WORDS[(start + i * k) % len(WORDS)] for k in range(1, count + 1))


def rows(kind):
    """Examples of a form that SFTTrainer takes."""
    for i in range(N):
        short, long = text(i, i, 1 + i % 3), text(i, 2 * i, 2 + i % 4)
        if kind == "text":
            yield {"text": f"{short} {long}"}
        elif kind == "completion":
            yield {"prompt": f"{short} ", "completion": long}
        else:
            said = [("user", short), ("assistant", long), ("user", long), ("assistant", short)]
            yield {"messages": [{"role": who, "content": what} for who, what in said]}


def model():
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=len(tokenizer()), **sizes))  # norms of its own type


def gpt2():
    """Its class is not called ForCausalLM, by which the Trainer counts targets."""
    torch.manual_seed(0)
    dropouts = dict.fromkeys(["resid_pdrop", "embd_pdrop", "attn_pdrop"], 0.0)
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 32}
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer()), **sizes, **dropouts))


def sft(folder, *callbacks, kind="text", peft=None, made=None, **changes):
    """An SFTTrainer that is the same every time."""
    set_seed(0)
    settings = {
        "output_dir": str(folder / "sft"), "per_device_train_batch_size": 3, "num_train_epochs": 1,
        "learning_rate": 1e-2, "report_to": [], "disable_tqdm": True, "use_cpu": True, "bf16": False,
        "save_strategy": "no", "logging_steps": 1, "log_level": "error", **changes,
    }  # fmt: skip
    return SFTTrainer(
        model=model() if made is None else made,
        args=SFTConfig(**settings),
        train_dataset=Dataset.from_list(list(rows(kind))),
        processing_class=tokenizer(),
        callbacks=list(callbacks),
        peft_config=peft,
    )


def trained(done):
    return flat(done.model)
