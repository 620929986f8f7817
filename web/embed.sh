#!/bin/sh
# embed.sh - turns the built page (a folder) into one C file: an array of struct web_asset (gateway/assets.h), bytes by .incbin.
# usage: web/embed.sh web/dist build/web_gzip > build/web_assets.c
# The second folder gets the compressed forms: gzip without name and time, so that the same page gives the same bytes.
# Files under assets/ carry a content hash in their name, so browsers may keep them for ever; index.html is served as "/".
set -eu
dist=$1 gzip=$2
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

# The bytes of a file under a label, with a zero behind. printf, because dash's echo turns the two characters \n into a line's end.
include() { # label file
    printf '%s\n' "__asm__(\".section .rodata\\n.balign 16\\n$1:\\n.incbin \\\"$2\\\"\\n.byte 0\\n.previous\\n\");"
    echo "extern const unsigned char $1[];"
}

rm -rf "$gzip"
mkdir -p "$gzip"
echo '/* web_assets.c - the built page, made by web/embed.sh. */'
echo '#include "gateway/assets.h"'
files=$(cd "$dist" && find . -type f | sed 's|^\./||' | LC_ALL=C sort)
i=0
for file in $files; do
    include "web_asset_$i" "$dist/$file"
    gzip -9n <"$dist/$file" >"$gzip/$i"
    # What it saves less than a tenth of is not worth a second form.
    if [ $(($(wc -c <"$gzip/$i") * 10)) -lt $(($(wc -c <"$dist/$file") * 9)) ]; then include "web_gzip_$i" "$gzip/$i"; else rm "$gzip/$i"; fi
    i=$((i + 1))
done
echo 'const struct web_asset web_assets[] = {'
i=0
for file in $files; do
    size=$(wc -c <"$dist/$file")
    etag=$(sha256sum "$dist/$file" | cut -c1-16)
    path="/$file"; [ "$file" = index.html ] && path=/
    immutable=false; case $file in assets/*) immutable=true ;; esac
    small="0, 0"; [ -f "$gzip/$i" ] && small="web_gzip_$i, $(wc -c <"$gzip/$i")"
    printf '%s\n' "    {\"$path\", \"$(type_of "$file")\", \"\\\"$etag\\\"\", \"\\\"$etag-gz\\\"\", web_asset_$i, $size, $small, $immutable},"
    i=$((i + 1))
done
echo '    {0},'
echo '};'
