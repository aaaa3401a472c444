"""Renders small chat templates with Python's Jinja, set up as Hugging Face's transformers sets it up
(utils/chat_template_utils.py), and keeps what came out in fixtures/templates/python.json.

    pip install jinja2==3.1.6 && python models/tests/make_templates.py
"""

import json
from pathlib import Path

from jinja2 import nodes
from jinja2.exceptions import TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(Extension):
    """As transformers' AssistantTracker, which keeps track of where the tags are while training."""

    tags = {"generation"}

    def parse(self, parser):
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_generation"), [], [], body).set_lineno(lineno)

    def _generation(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(
            x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    return env


# Read from JSON, as a request is.
GIVEN = json.loads(
    r"""{
    "messages": [
        {"role": "system", "content": "Be  kind.\n"},
        {"role": "user", "content": " Grüße & <b>\"quotes\"</b> 日本 it's "},
        {"role": "assistant", "content": "", "tool_calls": [
            {"id": "abc123def", "type": "function", "function": {"name": "f", "arguments":
                {"z": 1, "a": [true, false, null], "f": 1.5, "big": 123456789012345678, "s": "é\u0007\\"}}}]},
        {"role": "tool", "name": "f", "tool_call_id": "abc123def", "content": "{\"t\": 21}"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nIt is 21."},
        {"role": "user", "content": "thanks"}],
    "tools": [{"type": "function", "function": {"name": "f", "description": "does <it> & more",
        "parameters": {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "number",
        "enum": [1, 2.0, 1e20, 1e-7, 0.0001, 100000.0]}}, "required": ["b"]}}}],
    "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": true}"""
)

TEMPLATES = {
    "tojson": "{{ tools | tojson }}|{{ tools | tojson(indent=4) }}|{{ messages[2].tool_calls[0] | tojson }}",
    "tojson options": "{{ tools[0] | tojson(separators=(',', ':')) }}{{ {'b': 1, 'a': 'é'} | tojson(sort_keys=true) }}"
    "{{ 'é日🦙' | tojson(ensure_ascii=true) }}{{ [] | tojson(indent=2) }}{{ {} | tojson(indent=2) }}",
    "printing": "{{ true }} {{ none }} {{ 1.0 }} {{ [1, 'a', none, true] }} {{ {'a': 'b', 'c': [1.5]} }} {{ 'x' ~ 1 ~ none }}",
    "quotes in printed lists": "{{ [\"it's\", 'a\"b', 'tab\\t', 'é'] }}",
    "namespace and loops": "{% set ns = namespace(found=false, n=0) %}{% for m in messages %}{% if m.role == 'tool' %}"
    "{% set ns.found = true %}{% endif %}{% set ns.n = ns.n + loop.index0 %}{{ loop.first }}{{ loop.last }}{{ loop.index }}"
    "{{ loop.revindex }}{{ loop.length }};{% endfor %}{{ ns.found }} {{ ns.n }}",
    "break and continue": "{% for m in messages %}{% if m.role == 'user' %}{% continue %}{% endif %}{% if loop.index > 4 %}"
    "{% break %}{% endif %}{{ m.role }},{% endfor %}",
    "slices": "{{ messages[1:][0].role }} {{ messages[-1].content }} {{ messages[::-1][0].content }} {{ 'abcdef'[1:-1] }}"
    " {{ 'abc'[::-1] }} {{ messages[:-1] | length }}",
    "neighbours in a loop": "{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined else '-' }}"
    "{{ loop.nextitem.role if loop.nextitem is defined else '-' }} {% endfor %}",
    "string methods": "{{ ' a b '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'xxaxx'.lstrip('x') }}|{{ 'xxaxx'.rstrip('x') }}|"
    "{{ 'aBc dE'.upper() }}|{{ 'aBc'.lower() }}|{{ \"they're bill's\".title() }}|{{ 'hELLO wORLD'.capitalize() }}|"
    "{{ 'a-b-c'.replace('-', '+') }}|{{ 'a-b-c'.replace('-', '+', 1) }}|{{ 'abc'.startswith('a') }}|"
    "{{ 'abc'.startswith(('x', 'a')) }}|{{ 'abc'.endswith('d') }}|{{ 'abcabc'.find('c') }}|{{ 'abcabc'.rfind('c') }}|"
    "{{ 'abcabc'.count('bc') }}|{{ '12'.isdigit() }}|{{ 'a1'.isalnum() }}|{{ 'a1'.isalpha() }}|{{ 'A'.isupper() }}|"
    "{{ ', '.join(['a', 'b']) }}|{{ 'prefix-x'.removeprefix('prefix-') }}|{{ 'x.txt'.removesuffix('.txt') }}|"
    "{{ 'a=b=c'.partition('=') }}|{{ 'a=b=c'.rpartition('=') }}|{{ 'abc'.partition('=') }}",
    "splitting": "{{ 'a,b,,c'.split(',') }}{{ 'a,b,c'.split(',', 1) }}{{ ' a  b c '.split() }}{{ ' a  b c '.split(none, 1) }}"
    "{{ 'a,b,c'.rsplit(',', 1) }}{{ ' a  b c '.rsplit(none, 1) }}{{ 'a\\nb\\n\\nc\\n'.splitlines() }}"
    "{{ messages[4].content.split('</think>')[-1].lstrip('\\n') }}{{ 'x'.split('</think>')[0] }}",
    "dictionaries": "{% set d = messages[2].tool_calls[0].function.arguments %}{% for k, v in d.items() %}{{ k }}={{ v }};"
    "{% endfor %}{{ d.keys() | list }}{{ d.get('z') }}{{ d.get('none') }}{{ d.get('none', 5) }}{{ d.values() | list | length }}"
    "{% for k, v in d | items %}{{ k }}{% endfor %}{{ d | dictsort | length }}{{ 'z' in d }}{{ d['a'][0] }}",
    "tests": "{{ messages is iterable }}{{ messages[0] is mapping }}{{ 'a' is string }}{{ 1 is number }}{{ x is defined }}"
    "{{ none is none }}{{ messages[0].name is defined }}{{ true is true }}{{ messages[0].content is not string }}"
    "{{ [] is sequence }}{{ 3 is odd }}{{ 3 is divisibleby(3) }}{{ true is boolean }}{{ 1 is integer }}{{ 1.5 is float }}"
    "{{ 'a' is in ['a'] }}{{ 2 is eq(2) }}",
    "filters": "{{ messages | map(attribute='role') | join(', ') }} {{ messages | selectattr('role', 'equalto', 'user') | list |"
    " length }} {{ messages | rejectattr('role', 'equalto', 'user') | map(attribute='role') | unique | join('/') }}"
    " {{ ' x ' | trim }} {{ x | default('d') }} {{ none | default('d', true) }} {{ 'a\\nb' | indent(2) }}"
    " {{ 'a\\nb' | indent(width=4, first=true) }} {{ [3, 1, 2] | sort | first }} {{ [1, 2] | last }} {{ '5' | int + 1 }}"
    " {{ 'abc' | upper }} {{ [1, 2] | sum }} {{ 'aXb' | replace('X', '-') }} {{ messages[1].content | length }}"
    " {{ 5 | string + 'a' }} {{ '%s-%d' | format('a', 3) }} {{ 3.7 | round }} {{ -3 | abs }} {{ ['b', 'a'] | max }}",
    "arithmetic": "{{ 7 // 2 }} {{ 7 / 2 }} {{ 7 % 3 }} {{ 2 ** 5 }} {{ 1 + 2 * 3 }} {{ 'ab' * 3 }} {{ [1] + [2] }} {{ 8 / 2 }}",
    "conditions": "{{ 'a' if x else 'b' }}{{ 'yes' if tools and not none }}{{ x or 'or' }}{{ '' or none }}{{ 1 < 2 <= 2 }}"
    "{{ 'ser' in messages[1].role }}{{ 'q' not in 'abc' }}{{ (messages | length) % 2 == 0 }}",
    "macros": "{% macro show(m, upper=false) %}[{{ m.role | upper if upper else m.role }}]{% endmacro %}"
    "{% for m in messages %}{{ show(m, upper=loop.first) }}{% endfor %}",
    "blocks of text": "{% set text %}a {{ messages[0].role }}{% endset %}{{ text }}{% filter upper %}x{{ 1 }}{% endfilter %}"
    "{% raw %}{{ no }}{% endraw %}{# nothing #}",
    "space": "{% if true %}\n  a\n{% endif %}\n{%- if true %}\n  b\n{%- endif -%}\n   c\n  {% for i in [1,2] %}\n{{ i }}\n  {% endfor %}\nd\n",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
    "{% else %}{{ m.role }}{% endif %}{% endfor %}",
    "generation with space": "a\n  {%- generation -%}  b  {%- endgeneration %}\n  c",
    "undefined": "{{ x }}{{ messages[0].nothing }}{% for m in x %}never{% endfor %}{% if not x %}no{% endif %}{{ x is not defined }}",
    "refusal": "{{ raise_exception('no: ' + messages[0].role) }}",
    "undefined attribute": "{{ x.y }}",
    "undefined to JSON": "{{ x | tojson }}",
    "unpacking": "{% for a, b in [(1, 2), (3, 4)] %}{{ a + b }};{% endfor %}{% set c, d = 1, 2 %}{{ c }}{{ d }}",
    "loops over ranges": "{% for i in range(3) %}{{ i }}{% else %}none{% endfor %}{% for i in range(5, 0, -2) %}{{ i }}{% endfor %}"
    "{% for i in [] %}{% else %}empty{% endfor %}",
    "recursive schema": "{% macro kind(p) %}{% if p.type == 'object' %}{% for k, v in p.properties.items() %}{{ k }}: {{ kind(v) }}"
    "{{ ', ' if not loop.last }}{% endfor %}{% elif p.enum %}{{ p.enum[:2] | join(' | ') }}{% else %}{{ p.type }}{% endif %}"
    "{% endmacro %}{{ kind(tools[0].function.parameters) }}",
}


def main():
    cases = []
    for name, source in TEMPLATES.items():
        try:
            expected = environment().from_string(source).render(**GIVEN)
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {error}")
            expected = None
        cases.append({"name": name, "source": source, "expected": expected})
    path = Path(__file__).parent / "fixtures/templates/python.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"given": GIVEN, "cases": cases}, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
