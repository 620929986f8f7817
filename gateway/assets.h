/* assets.h - the page inside the binary. build/web_assets.c, made by web/embed.sh from web/dist, defines the table. */
#ifndef FORESAY_ASSETS_H
#define FORESAY_ASSETS_H

#include <stdbool.h>
#include <stddef.h>

struct web_asset {
    const char *path;             /* "/" or "/assets/index-1a2b3c4d.js" */
    const char *type;             /* media type */
    const char *etag, *gzip_etag; /* with their quotes */
    const unsigned char *data;
    size_t size;
    const unsigned char *gzip; /* the same, compressed; NULL where that is not worth it */
    size_t gzip_size;
    bool immutable; /* the name carries a content hash: browsers may keep it for ever */
};

extern const struct web_asset web_assets[]; /* ends with a NULL path */

#endif
