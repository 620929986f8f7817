/* links.h - the addresses under which a browser reaches this server, as links that sign in. Main thread, at start. */
#ifndef FORESAY_LINKS_H
#define FORESAY_LINKS_H

enum {
    LINKS_MAX = 8, /* more addresses than a person reads */
    LINK_SIZE = 512,
};

/* links[0] is for this machine, or for everybody when there is a public origin (else NULL). Behind it, where host is every
 * network (0.0.0.0 or ::), those for other devices: one for each address of an interface that is up, but loopback and link-local
 * ones. Returns their number. */
int sign_in_links(const char *host, int port, const char *public_origin, const char *code, char links[LINKS_MAX][LINK_SIZE]);

#endif
