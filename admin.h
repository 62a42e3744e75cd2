/* admin.h - the listener of operators: HTTP/1.1, what is asked there and what is answered. README.md has the list of all paths.
 *
 *   admin = ADDRESS ... --admin_open()--> connections of CONN_ADMIN --> /healthz /status /metrics ... POST /drain ...
 *
 * Off unless there is an address.
 */
#ifndef PUERTA_ADMIN_H
#define PUERTA_ADMIN_H

#include "puerta.h"

void admin_tables(const struct conf *conf);
/* fds: the listening sockets, conf->admins of them. conf is the one in force, and is looked at with each request: a reload changes it. */
void admin_open(const struct conf *conf, const int *fds);

/* Path, methods ("GET", "POST") and help of route i; NULL past the last. */
const char *admin_route(uint32_t i, const char **methods, const char **help);

#endif
