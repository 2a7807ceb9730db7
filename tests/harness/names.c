// Preloaded into a program, it answers for the names in the file that NAMES_FILE names: a line for each, of the
// name and an address, or "again" (nobody knows), "gone" (there is none) or "silent" (no answer, until the line
// changes). What is not listed is looked up as ever.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int lookup(const char *, const char *, const struct addrinfo *, struct addrinfo **);

static int listed(const char *name, char *answer) {
    const char *path = getenv("NAMES_FILE");
    FILE *file = path ? fopen(path, "re") : NULL;
    char found[256];
    int there = 0;
    if (!file) abort();
    while (!there && fscanf(file, "%255s %63s", found, answer) == 2) there = !strcasecmp(found, name);
    fclose(file);
    return there;
}

int getaddrinfo(const char *restrict name, const char *restrict service, const struct addrinfo *restrict hints,
                struct addrinfo **restrict result) {
    lookup *real = (lookup *)dlsym(RTLD_NEXT, "getaddrinfo");
    char answer[64];
    while (name && listed(name, answer)) {
        if (!strcmp(answer, "again")) return EAI_AGAIN;
        if (!strcmp(answer, "gone")) return EAI_NONAME;
        if (strcmp(answer, "silent")) return real(answer, service, hints, result);
        usleep(20000);
    }
    return real(name, service, hints, result);
}
