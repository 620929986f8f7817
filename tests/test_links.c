/* test_links.c - protects the links that `serve` prints: one for this machine, further ones only where others can come. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "gateway/links.h"

static void one_address_is_one_link(void **state) {
    (void)state;
    char links[LINKS_MAX][LINK_SIZE];
    assert_int_equal(sign_in_links("127.0.0.1", 8080, NULL, "C", links), 1);
    assert_string_equal(links[0], "http://127.0.0.1:8080/sign-in?code=C");
    assert_int_equal(sign_in_links("::1", 1, NULL, "C", links), 1);
    assert_string_equal(links[0], "http://[::1]:1/sign-in?code=C");
    assert_int_equal(sign_in_links("0.0.0.0", 8080, "https://chat.example", "C", links), 1);
    assert_string_equal(links[0], "https://chat.example/sign-in?code=C");
}

/* All interfaces of this machine that others may come by, in the system's order. */
static int wanted(int family_too, char out[64][LINK_SIZE]) {
    struct ifaddrs *all = NULL;
    int n = 0;
    assert_int_equal(getifaddrs(&all), 0);
    for (struct ifaddrs *one = all; one && n < 64; one = one->ifa_next) {
        char host[NI_MAXHOST];
        int family = one->ifa_addr ? one->ifa_addr->sa_family : 0;
        socklen_t size = family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
        if ((family != AF_INET && family != family_too) || !(one->ifa_flags & IFF_UP)) continue;
        assert_int_equal(getnameinfo(one->ifa_addr, size, host, sizeof host, NULL, 0, NI_NUMERICHOST), 0);
        if (strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0 || strncmp(host, "fe80:", 5) == 0) continue;
        snprintf(out[n++], LINK_SIZE, strchr(host, ':') ? "http://[%s]:80/sign-in?code=C" : "http://%s:80/sign-in?code=C", host);
    }
    freeifaddrs(all);
    return n;
}

static void every_network_has_its_links(void **state) {
    (void)state;
    static char links[LINKS_MAX][LINK_SIZE], others[64][LINK_SIZE];
    static const struct {
        const char *host, *local;
        int family;
    } rows[] = {{"0.0.0.0", "http://127.0.0.1:80/sign-in?code=C", AF_INET}, {"::", "http://[::1]:80/sign-in?code=C", AF_INET6}};
    for (int i = 0; i < 2; i++) {
        int n = sign_in_links(rows[i].host, 80, NULL, "C", links), n_others = wanted(rows[i].family, others);
        assert_string_equal(links[0], rows[i].local);
        assert_int_equal(n, n_others < LINKS_MAX ? n_others + 1 : LINKS_MAX);
        for (int k = 1; k < n; k++) assert_string_equal(links[k], others[k - 1]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(one_address_is_one_link), cmocka_unit_test(every_network_has_its_links)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
