/* A name server that never answers, for names below hangs.invalid: see dns.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <unistd.h>

typedef int look_up(const char *, const char *, const struct addrinfo *, struct addrinfo **);

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
    static const char suffix[] = ".hangs.invalid";
    size_t length = name ? strlen(name) : 0;

    if (length >= sizeof suffix && !strcmp(name + length - (sizeof suffix - 1), suffix))
        for (;;)
            pause();
    return ((look_up *) dlsym(RTLD_NEXT, "getaddrinfo"))(name, service, hints, found);
}
