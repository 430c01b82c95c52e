"""What vLLM answers when it is asked for token ids and log-probabilities, made up from the tokens and a salt.

The salt stands for the weights: another salt gives other log-probabilities and other greedy tokens to the same
prompts. For the servers of tests that stand for vLLM; it imports nothing of ours, so that any of them can use it.
"""

import math
from typing import Any


def completion(asked: dict[str, Any], salt: float) -> dict[str, Any]:
    """The answer to a request for completions of one prompt."""
    prompt = asked["prompt"]
    tokens = [1, *(byte + 3 for byte in prompt.encode())] if isinstance(prompt, str) else list(prompt)
    generated = greedy(tokens, salt, asked.get("max_tokens", 16))
    choice: dict[str, Any] = {"index": 0, "text": text_of(generated), "finish_reason": "length", "stop_reason": None}
    if asked.get("logprobs") is not None:
        values = [chosen for _, chosen, _ in generated]
        tops = [{f"token_id:{token}": chosen, f"token_id:{token + 1}": second} for token, chosen, second in generated]
        names = [f"token_id:{token}" for token, _, _ in generated]
        choice["logprobs"] = {"token_logprobs": values, "top_logprobs": tops, "tokens": names}
    choice |= extras(asked, tokens, salt)
    if asked.get("return_token_ids"):
        choice["token_ids"] = [token for token, _, _ in generated]
    return {"id": "x", "object": "text_completion", "model": asked["model"], "choices": [choice]}


def chat(asked: dict[str, Any], salt: float) -> dict[str, Any]:
    """The answer to a request for one chat."""
    tokens = [1, 2, *(byte + 3 for message in asked["messages"] for byte in message["content"].encode()), 2]
    generated = greedy(tokens, salt, asked.get("max_tokens", 16))
    message = {"role": "assistant", "content": text_of(generated)}
    choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": "length", "logprobs": None}
    if asked.get("logprobs"):
        choice["logprobs"] = {
            "content": [
                {"token": name, "logprob": chosen, "top_logprobs": [{"logprob": chosen}, {"logprob": second}]}
                for token, chosen, second in generated
                for name in [f"token_id:{token}"]
            ]
        }
    if asked.get("return_token_ids"):
        choice["token_ids"] = [token for token, _, _ in generated]
    body = {"id": "x", "object": "chat.completion", "model": asked["model"], "choices": [choice]}
    return {**body, **extras(asked, tokens, salt)}


def extras(asked: dict[str, Any], tokens: list[int], salt: float) -> dict[str, Any]:
    """What is told of the prompt."""
    told: dict[str, Any] = {}
    if asked.get("return_token_ids"):
        told["prompt_token_ids"] = tokens
    if asked.get("prompt_logprobs") is not None:
        values = [{str(token): {"logprob": value(token, place, salt)}} for place, token in enumerate(tokens)]
        told["prompt_logprobs"] = [None, *values[1:]]
    return told


def greedy(tokens: list[int], salt: float, count: int) -> list[tuple[int, float, float]]:
    """Generated tokens: id, log-probability, that of the runner-up."""
    found = []
    for place in range(count):
        chosen = -0.05 - abs(math.sin(salt + sum(tokens) + place)) / 2
        found.append((100 + int(salt * 7 + sum(tokens) + 13 * place) % 150, chosen, chosen - 1.0))
    return found


def value(token: int, place: int, salt: float) -> float:
    """Log-probability of one token of a prompt."""
    return -3.0 - 2.5 * math.sin(salt + token * 1.7 + place)


def text_of(generated: list[tuple[int, float, float]]) -> str:
    """One word for each token."""
    return " ".join(f"w{token}" for token, _, _ in generated)
