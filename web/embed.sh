#!/bin/sh
# embed.sh - turns the built page (a folder) into one C file: an array of struct web_asset (gateway/assets.h), bytes by .incbin.
# usage: web/embed.sh web/dist > build/web_assets.c
# Files under assets/ carry a content hash in their name, so browsers may keep them for ever; index.html is served as "/".
set -eu
dist=$1
[ -f "$dist/index.html" ] || { echo "embed.sh: $dist/index.html is missing: build the page (make page)" >&2; exit 1; }

type_of() {
    case $1 in
    *.html) echo 'text/html; charset=utf-8' ;;
    *.js) echo 'text/javascript; charset=utf-8' ;;
    *.css) echo 'text/css; charset=utf-8' ;;
    *.svg) echo 'image/svg+xml' ;;
    *.png) echo 'image/png' ;;
    *.ico) echo 'image/x-icon' ;;
    *.woff2) echo 'font/woff2' ;;
    *.webmanifest) echo 'application/manifest+json' ;;
    *.json) echo 'application/json' ;;
    *.txt) echo 'text/plain; charset=utf-8' ;;
    *) echo "embed.sh: no media type for $1" >&2; exit 1 ;;
    esac
}

# printf, because dash's echo turns the two characters \n into a line's end.
echo '/* web_assets.c - the built page, made by web/embed.sh. */'
echo '#include "gateway/assets.h"'
files=$(cd "$dist" && find . -type f | sed 's|^\./||' | LC_ALL=C sort)
i=0
for file in $files; do
    printf '%s\n' "__asm__(\".section .rodata\\n.balign 16\\nweb_asset_$i:\\n.incbin \\\"$dist/$file\\\"\\n.byte 0\\n.previous\\n\");"
    echo "extern const unsigned char web_asset_$i[];"
    i=$((i + 1))
done
echo 'const struct web_asset web_assets[] = {'
i=0
for file in $files; do
    size=$(wc -c <"$dist/$file")
    etag=$(sha256sum "$dist/$file" | cut -c1-16)
    path="/$file"; [ "$file" = index.html ] && path=/
    immutable=false; case $file in assets/*) immutable=true ;; esac
    printf '%s\n' "    {\"$path\", \"$(type_of "$file")\", \"\\\"$etag\\\"\", web_asset_$i, $size, $immutable},"
    i=$((i + 1))
done
echo '    {0},'
echo '};'
