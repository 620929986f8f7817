"""Whole chat templates, in the shapes that the families' own have, over many conversations: `foresay render` gives the bytes that
transformers' own set-up of jinja2 gives, or refuses where that refuses, naming the line and the cause.

Templates: tests/data/chat_templates. Each runs over every conversation below, with tools and without, with and without
add_generation_prompt, and with each set of further variables. The test prints how many renders it compared.
"""
import concurrent.futures
import json
import os
import pathlib
import re
import subprocess

import jinja2
import pytest

pytest.importorskip("transformers")
from transformers.utils.chat_template_utils import _compile_jinja_template  # noqa: E402

BIN = os.environ["FORESAY_BIN"]
TEMPLATES = sorted((pathlib.Path(__file__).parent.parent / "data" / "chat_templates").glob("*.jinja"))


def message(role, content, **more):
    return {"role": role, "content": content, **more}


def call(name, arguments, number=0, **more):
    return {"type": "function", "id": f"call{number:05d}", "function": {"name": name, "arguments": arguments}, **more}


U, A, S = (lambda text: message("user", text)), (lambda text: message("assistant", text)), (lambda text: message("system", text))
WEATHER = call("get_weather", {"city": "São Paulo", "days": 3, "units": None, "exact": True, "limits": [1.5, -2e30, "é\n\"q\""]})
TIME = call("time", {}, 1)
CONVERSATIONS = {
    "one": [U("Hi")],
    "empty text": [U("")],
    "system": [S("You are brief."), U("Hi")],
    "system with space": [S("  \n Be kind. \n\n"), U("\n  spaced  \n\n"), A("  yes  "), U(" ")],
    "turns": [U("a"), A("b"), U("c"), A("d"), U("e")],
    "ends with an answer": [S("s"), U("q"), A("One, two,")],
    "unicode": [S("Тест 中文 العربية"), U("👩\u200d👩\u200d👧 e\u0301 \u2028 \u00a0 ﬁ \U0001f600 <|im_end|> <｜User｜>"), A("हिन्दी ᚠ \ufeff")],
    "markup": [U("<b>&amp; 'single' \"double\" {{ not }} {% code %} {# hidden #} \\n \\"), A("```c\nint x = 1 < 2;\t// tab\n```\r\n")],
    "long": [U("word " * 2000), A("x" * 5000), U("\n" * 500)],
    "thoughts": [U("2+2?"), A("<think>\nTwo and two.\n</think>\n\n4"), U("Sure?"), A("<think>\nYes</think>Yes."), U("Ok /no_think")],
    "reasoning": [U("q"), message("assistant", "a", reasoning_content="\nbecause\n"), U("r"), message("assistant", "b", reasoning_content="")],
    "flags": [S("Be nice. /no_think"), U("x"), A("y"), U("z")],
    "override": [S("/system_override Only this. /think"), U("x")],
    "two systems": [S("one"), S("two"), U("x"), S("three"), U("y")],
    "call": [U("Weather?"), message("assistant", "", tool_calls=[WEATHER]), message("tool", "22 °C", tool_call_id="call00000", name="get_weather"), A("Warm."), U("Thanks")],
    "call without text": [U("Weather?"), message("assistant", None, tool_calls=[WEATHER]), message("tool", "{\"t\": 22}", tool_call_id="call00000")],
    "two calls": [S("s"), U("Both?"), message("assistant", "Looking.", tool_calls=[WEATHER, TIME]), message("tool", "22"), message("tool", "12:00"), A("Noon, warm.")],
    "steps": [U("Go"), message("assistant", "<think>\nfirst\n</think>\n", tool_calls=[TIME]), message("tool", "1"), message("assistant", "<think>\nthen\n</think>\nmore", tool_calls=[WEATHER]),
              message("tool", "2"), message("tool", "3")],
    "arguments as text": [U("x"), message("assistant", "", tool_calls=[call("f", "{\"a\": 1}")]), message("tool", "ok")],
    "bare call": [U("x"), message("assistant", "", tool_calls=[{"name": "g", "arguments": {"k": [1, {"n": {}}]}}]), message("tool", "ok")],
    "short id": [U("x"), message("assistant", "", tool_calls=[{**TIME, "id": "1"}])],
    "tool answers an object": [U("x"), message("assistant", "", tool_calls=[TIME]), message("tool", {"content": {"h": 12, "list": [1, 2.0, False]}}), A("done")],
    "parts": [U([{"type": "text", "text": " see "}, {"type": "image"}, {"type": "text", "text": "this"}]), A("a cat"), U("and?")],
    "same role twice": [U("a"), U("b"), A("c"), A("d")],
    "answer first": [A("hello"), U("hi")],
    "unknown role": [U("a"), message("narrator", "Meanwhile")],
    "no messages": [],
    "no role": [{"content": "x"}],
    "no content": [{"role": "user"}, {"role": "assistant"}],
    "content is none": [U("a"), message("assistant", None), U("b")],
    "content is a number": [U(5), A(2.5), U(True)],
    "nested": [message("user", "x", parts=[message("user", "y", parts=[message("user", "z")]), message("user", "w")])],
}
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "The weather,\nday by day: \"°C\" & more <b>", "parameters": {
        "type": "object", "required": ["city"], "properties": {
            "city": {"type": "string", "description": "Città"}, "days": {"type": "integer", "default": 1}, "units": {"type": "string", "enum": ["metric", "imperial", None]},
            "where": {"type": "object", "properties": {"lat": {"type": "number"}, "points": {"type": "array", "items": {"type": ["integer", "null"]}}}}, "tags": {"type": "array"}}}}},
    {"type": "function", "function": {"name": "time", "parameters": {"type": "object", "properties": {}}, "return": {"type": "string"}}},
]
EXTRAS = [{}, {"enable_thinking": False, "date_string": "26 Jul 2024", "today": "x"}, {"tools_in_user_message": False, "builtin_tools": ["get_weather"], "enable_thinking": True}]


def expected(template, variables):
    try:
        return template.render(**variables)
    except Exception as trouble:  # whatever Python raises, ours must refuse too
        return trouble


def ours(path, variables):
    return subprocess.run([BIN, "render", "--template", str(path)], input=json.dumps(variables).encode(), capture_output=True, timeout=120)


def problem(path, name, variables, want, got):
    where = f"{path.name}, {name}, {({k: v for k, v in variables.items() if k not in ('messages', 'tools')})}, {'tools' if 'tools' in variables else 'no tools'}"
    if isinstance(want, Exception):
        cause = str(want) if isinstance(want, jinja2.TemplateError) and type(want) is jinja2.TemplateError else ""
        told = got.stderr.decode()
        return None if got.returncode == 1 and re.search(r"line \d+", told) and cause in told else f"{where}: {want!r} expected, {got.stdout[-80:]!r} {told} got"
    text = got.stdout.decode()
    if got.returncode == 0 and text == want:
        return None
    at = next((i for i, (a, b) in enumerate(zip(want, text)) if a != b), min(len(want), len(text)))
    return f"{where}: character {at}: {want[max(0, at - 20):at + 40]!r} expected, {text[max(0, at - 20):at + 40]!r} {got.stderr.decode()} got"


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_template(path):
    template = _compile_jinja_template(path.read_text())
    cases = []
    for name, messages in CONVERSATIONS.items():
        for tools in (None, TOOLS):
            for prompt in (True, False):
                for extra in EXTRAS:
                    variables = {"messages": messages, "add_generation_prompt": prompt, "bos_token": "<s>", "eos_token": "</s>", **extra}
                    if tools:
                        variables["tools"] = tools
                    cases.append((name, variables))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        got = list(pool.map(lambda case: ours(path, case[1]), cases))
    wants = [expected(template, variables) for _, variables in cases]
    problems = [found for (name, variables), want, mine in zip(cases, wants, got) if (found := problem(path, name, variables, want, mine))]
    refused = sum(isinstance(want, Exception) for want in wants)
    print(f"{path.stem}: {len(cases)} renders, {refused} of them refusals")
    assert not problems, f"{len(problems)} of {len(cases)}:\n" + "\n".join(problems[:12])
    assert refused < len(cases) / 2
