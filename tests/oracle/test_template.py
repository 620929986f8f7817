"""`foresay render` against Python's jinja2 in the set-up of transformers: byte for byte, and an error where jinja2 has one.

Cases: tests/data/jinja_cases.txt (split by ====), and the default model's own template over several conversations.
"""
import datetime
import json
import os
import pathlib
import subprocess

import jinja2
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

BIN = os.environ["FORESAY_BIN"]
MODEL = os.environ["FORESAY_MODEL"]
CASES = (pathlib.Path(__file__).parent.parent / "data" / "jinja_cases.txt").read_text().split("\n====\n")


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda f: datetime.datetime.now().strftime(f)
    return env


MESSAGES = [
    {"role": "system", "content": "  You are é 中文. \n"},
    {"role": "user", "content": "Hi <b> 'x' \"y\"\n\nline2"},
    {"role": "assistant", "content": "<think>\nreason\n</think>\n\nok", "tool_calls": [
        {"type": "function", "function": {"name": "f", "arguments": {"a": 1, "b": [1.5, None, True]}}}]},
    {"role": "tool", "content": "42"},
    {"role": "user", "content": ""},
]
VARIABLES = {
    "messages": MESSAGES,
    "tools": [{"type": "function", "function": {"name": "get", "description": 'd"q', "parameters": {
        "type": "object", "properties": {"x": {"type": "string"}}}}}],
    "add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>", "n": 7, "f": 2.5, "s": "Hello World foo",
    "l": [3, 1, 2, 2], "d": {"b": 2, "a": 1}, "e": [], "none": None, "big": 12345678901234,
}


def expected(template, variables):
    try:
        return environment().from_string(template).render(**variables)
    except Exception as trouble:  # whatever Python raises, ours must refuse too
        return trouble


def ours(arguments, variables):
    return subprocess.run([BIN, "render", *arguments], input=json.dumps(variables).encode(), capture_output=True, timeout=60)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_case(number, tmp_path):
    file = tmp_path / "case.jinja"
    file.write_text(CASES[number])
    want, got = expected(CASES[number], VARIABLES), ours(["--template", str(file)], VARIABLES)
    if isinstance(want, Exception):
        assert got.returncode == 1 and b"line " in got.stderr, f"jinja2 says {want!r}"
    else:
        assert got.returncode == 0, got.stderr
        assert got.stdout.decode() == want


@pytest.fixture(scope="module")
def default_template():
    from gguf import GGUFReader

    field = GGUFReader(MODEL).fields["tokenizer.chat_template"]
    return bytes(field.parts[field.data[0]]).decode()


@pytest.mark.parametrize("n", range(1, len(MESSAGES) + 1))
@pytest.mark.parametrize("prompt", [True, False])
def test_default_model(n, prompt, default_template):
    variables = {"messages": MESSAGES[:n], "add_generation_prompt": prompt}
    got = ours(["--model", MODEL], variables)
    assert got.stdout.decode() == expected(default_template, variables), got.stderr


@pytest.mark.parametrize("template", [
    "{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "{% for i in range(1000000) %}{% for j in range(1000000) %}x{% endfor %}{% endfor %}",
    "{% set ns = namespace(x='a') %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{% set ns = namespace(a=[], b=[]) %}{% for i in range(90000) %}{% set ns.a = [ns.a] %}{% set ns.b = [ns.b] %}{% endfor %}{{ ns.a == ns.b }}",
    "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}{{ ns.a == ns.b }}",
    "{{ range(99999)|unique|list|length }}", "{% set l = range(99999)|list %}{% for i in l %}{% if -1 in l %}x{% endif %}{% endfor %}",
    "{% set s = 'ab' * 9999999 %}{% for i in range(99999) %}{% if s.find('c') > 0 or s|length == 1 or 'bb' in s %}x{% endif %}{% endfor %}",
    "{% set s = 'ab' * 9999999 %}{% set t = s ~ 'c' %}{% for i in range(99999) %}{% if s ~ 'd' == t %}x{% endif %}{% endfor %}",
    "{% set s = 'ab' * 9999999 %}{% set t = s[:-1] %}{% set u = s[:-1] %}{% for i in range(99999) %}{% if t == u %}{% if s[-1] == 'x' %}x{% endif %}{% endif %}{% endfor %}",
    "(" * 100000, "{{ " + "(" * 100000 + " }}", "{% if x %}" * 100000, "{{ " + "[" * 5000 + "]" * 5000 + " }}", "{{ 'a' * 9999999999 }}",
])
def test_hostile_template_ends_in_a_sentence(template, tmp_path):
    file = tmp_path / "case.jinja"
    file.write_text(template)
    got = ours(["--template", str(file)], VARIABLES)
    if template.startswith("(("):
        assert got.returncode == 0
    else:
        assert got.returncode == 1 and b"line " in got.stderr


def test_large_lists_are_sorted_and_grouped(tmp_path):
    """In time, and stable, as Python's own."""
    file = tmp_path / "case.jinja"
    file.write_text(
        "{% for p in pairs|sort(attribute='k', reverse=true) %}{{ p.v }},{% endfor %}{{ pairs|map(attribute='v')|sort|last }}"
        "{% for g in pairs|groupby('k') %}{{ g.grouper }}{{ g.list|length }}{{ g[1][0].v }}{% endfor %}"
        "{% for k, items in pairs[:9]|groupby('k', case_sensitive=true) %}{{ k }}{{ items }}{% endfor %}")
    variables = {"pairs": [{"k": "bAcaBC"[i * i % 6], "v": i * 7919 % 20011} for i in range(20000)]}
    got = ours(["--template", str(file)], variables)
    assert got.stdout.decode() == expected(file.read_text(), variables), got.stderr
