/* links.c - see links.h. */
#include "gateway/links.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static void put_link(char out[LINK_SIZE], const char *host, int port, const char *code) {
    const char *form = strchr(host, ':') ? "http://[%s]:%d/sign-in?code=%s" : "http://%s:%d/sign-in?code=%s";
    snprintf(out, LINK_SIZE, form, host, port, code);
}

/* The interface's address as a number, if others may come by it. Who listens on :: is reached by IPv4, too. */
static bool take_address(const struct ifaddrs *interface, bool v6_too, char out[NI_MAXHOST]) {
    const struct sockaddr *address = interface->ifa_addr;
    if (!address || !(interface->ifa_flags & IFF_UP) || (interface->ifa_flags & IFF_LOOPBACK)) return false;
    bool is_v6 = address->sa_family == AF_INET6;
    if (address->sa_family != AF_INET && !(is_v6 && v6_too)) return false;
    if (is_v6 && IN6_IS_ADDR_LINKLOCAL(&((const struct sockaddr_in6 *)(const void *)address)->sin6_addr)) return false;
    socklen_t size = is_v6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    return getnameinfo(address, size, out, NI_MAXHOST, NULL, 0, NI_NUMERICHOST) == 0;
}

int sign_in_links(const char *host, int port, const char *public_origin, const char *code, char links[LINKS_MAX][LINK_SIZE]) {
    bool all_v4 = strcmp(host, "0.0.0.0") == 0, all_v6 = strcmp(host, "::") == 0;
    struct ifaddrs *interfaces = NULL;
    char address[NI_MAXHOST];
    int n = 1;
    if (public_origin) {
        snprintf(links[0], LINK_SIZE, "%s/sign-in?code=%s", public_origin, code);
        return n;
    }
    /* An address to bind is not always one to open: a browser on this machine uses localhost's for "all". */
    put_link(links[0], all_v4 ? "127.0.0.1" : all_v6 ? "::1" : host, port, code);
    if ((!all_v4 && !all_v6) || getifaddrs(&interfaces) != 0) return n;
    for (const struct ifaddrs *one = interfaces; one && n < LINKS_MAX; one = one->ifa_next) {
        if (take_address(one, all_v6, address)) put_link(links[n++], address, port, code);
    }
    freeifaddrs(interfaces);
    return n;
}
