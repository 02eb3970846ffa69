/* SPDX-License-Identifier: GPL-2.0 */
/* TAP for the programs of this directory that print their plan at the end */
#ifndef RESULT_H
#define RESULT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>

static int nr_results, failed;

__attribute__((format(printf, 2, 3)))
static void result(bool good, const char *fmt, ...)
{
	va_list args;

	printf("%sok %d ", good ? "" : "not ", ++nr_results);
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf("\n");
	failed |= !good;
}

#endif
