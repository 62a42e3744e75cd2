/* dashboard.h - the page of GET /, which the Makefile makes of dashboard.html: its bytes as they are served, and its policy.
 *
 * The page asks for nothing but what this listener has, and holds no secret: it is to be served without a token.
 */
#ifndef PUERTA_DASHBOARD_H
#define PUERTA_DASHBOARD_H

#include <stddef.h>

extern const unsigned char dashboard_html[];
extern const size_t dashboard_html_len;
/* The value of its Content-Security-Policy field. */
extern const char dashboard_csp[];

#endif
