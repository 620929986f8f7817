#!/usr/bin/env bash
# tidy.sh - style as a test. Prints one line a finding and ends with 1 if there is any.
#
# Checks: includes follow the arrows (web -> gateway -> engine -> {speculative, kernels}); each outside library has one room; banned calls;
# line length; every C file opens with a head comment that names it; words of unfinished work; layout by clang-format where it is installed.
set -u
cd "$(dirname "$0")/.." || exit 2
findings=$(mktemp)
trap 'rm -f "$findings"' EXIT
say() { printf '%s\n' "$*" >>"$findings"; }

sources=$(git ls-files 'kernels/*.[ch]' 'engine/*.[ch]' 'speculative/*.[ch]' 'gateway/*.[ch]' 'tests/*.[ch]')

# Which project headers a folder may include, as an extended regular expression over the include path.
allowed() {
    case $1 in
    kernels) echo '^kernels/' ;;
    speculative) echo '^speculative/' ;;
    engine) echo '^(engine/|kernels/kernels\.h$|speculative/speculative\.h$)' ;;
    gateway) echo '^(gateway/|engine/(engine|log|options)\.h$)' ;;
    *) echo '.' ;;
    esac
}
for folder in kernels speculative engine gateway; do
    rule=$(allowed $folder)
    grep -HnoE '^#include "[^"]+"' $(grep "^$folder/" <<<"$sources") /dev/null 2>/dev/null |
        sed -E 's/^([^:]+:[0-9]+):#include "([^"]+)"$/\1 \2/' |
        while read -r where header; do
            [[ $header =~ $rule ]] || say "$where: $folder/ must not include $header (arrows: gateway -> engine -> {speculative, kernels})"
        done
done

# Each outside library is included by the files of one room only.
library() { # header pattern, files that may
    grep -HnE "^#include <$1" $sources 2>/dev/null | grep -vE "^($2):" | while IFS=: read -r file line _; do
        say "$file:$line: <$1> belongs to $2"
    done
}
library 'libwebsockets' 'gateway/server\.c'
library 'uv\.h' 'gateway/server\.c'
library 'sqlite3' 'gateway/store[a-z_]*\.[ch]|tests/(test_store[a-z_]*|store_fixture)\.[ch]'
library 'sodium' 'gateway/auth\.c'
library 'jansson' 'gateway/(wire_in|openai_in|archive_in|config)\.c|engine/tool_render\.c|tests/[a-z_]*\.c'
library 'pcre2' 'engine/pretokenizer\.c'
library 'utf8proc' 'engine/normalize\.c|tests/[a-z_]*\.c'
library 'immintrin' 'kernels/cpu/[a-z0-9_]*\.[ch]'

# Calls with a better sibling: bounded, re-entrant, or checked.
banned='\b(strcpy|strcat|sprintf|vsprintf|gets|strtok|alloca|system|popen|atoi|atol|atof|tmpnam|mktemp|asctime|ctime|localtime|gmtime|rand|srand)\('
grep -HnE "$banned" $sources | grep -vE '^[^:]+:[0-9]+:\s*(\*|/\*|//)' | while IFS= read -r hit; do say "banned call: $hit"; done

awk 'length($0) > 130 { print FILENAME ":" FNR ": line of " length($0) " columns (130 at most)" }' $sources >>"$findings"
grep -HnwE 'TODO|FIXME|XXX|HACK' $sources | while IFS= read -r hit; do say "unfinished: $hit"; done
for file in $sources; do
    read -r first <"$file"
    [[ $first == "/* $(basename "$file") - "* ]] || say "$file:1: open with \"/* $(basename "$file") - what it holds\""
done

# What README.md names as `file: function` must be there.
grep -oE '`[a-z]+/[a-z_/0-9]+\.(c|ts)(: [a-z_0-9]+)?`' README.md | tr -d '`' | while IFS=': ' read -r file name; do
    [ -f "$file" ] || { say "README.md names $file, which does not exist"; continue; }
    [ -z "$name" ] || grep -qE "^[a-z].*\b$name\(" "$file" || say "README.md names $name in $file, which is not there"
done

if command -v clang-format >/dev/null; then
    clang-format --dry-run $sources 2>&1 | grep 'warning:' | cut -d: -f1 | sort | uniq -c |
        while read -r count file; do say "$file: $count places differ from .clang-format (make format)"; done
else
    echo "tidy: clang-format is not installed, layout not checked" >&2
fi

cat "$findings"
[ ! -s "$findings" ] && echo "tidy: $(wc -w <<<"$sources") files clean"
