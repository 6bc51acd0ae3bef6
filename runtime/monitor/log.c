/* A container's log on disk: see log.h. */
#define _GNU_SOURCE
#include "log.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ENTRY = 6 * PIECE + 256 /* most bytes of an entry: all of it escaped */ };

static const char *format, *path;
static int file = -1;
static int64_t size, most;
static long files;
static char entries[4 * PIECE + ENTRY]; /* not written yet */
static uint32_t entries_end;

int log_reopen(void) {
    struct stat found;
    log_close();
    if (*format == 'n') return 0;
    file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
    size = file >= 0 && !fstat(file, &found) ? found.st_size : 0;
    return file < 0 ? -1 : 0;
}

int log_open(const char *in_format, const char *at_path, int64_t most_bytes, long most_files) {
    format = in_format, path = at_path, most = most_bytes, files = most_files;
    return log_reopen();
}

void log_close(void) {
    if (file >= 0) close(file);
    file = -1;
}

/* A disk that is full or broken costs log entries, whole ones, and nothing else. */
static void write_entries(void) {
    uint32_t done = 0;
    if (entries_end && file < 0) log_reopen(); /* it could not be had the last time */
    for (ssize_t count; file >= 0 && done < entries_end; done += (uint32_t)count)
        if ((count = write(file, entries + done, entries_end - done)) <= 0) break;
    if (done == entries_end) size += done;
    else if (done && ftruncate(file, size)) size += done; /* there half an entry stays */
    entries_end = 0;
}

static void rotate(void) {
    char from[4200], to[4200];
    write_entries();
    if (file < 0) return;
    if (files < 2) {
        if (!ftruncate(file, 0)) size = 0;
        return;
    }
    for (long number = files - 1; number > 0; number--) {
        snprintf(to, sizeof to, "%s.%ld", path, number);
        snprintf(from, sizeof from, number > 1 ? "%s.%ld" : "%s", path, number - 1);
        rename(from, to);
    }
    log_reopen();
}

/* Go's RFC3339Nano: no trailing zeros. The text of a second is kept: with short lines, times are most of the work. */
static char *put_time(char *to, const struct timespec *when) {
    static time_t second = -1;
    static char text[32];
    if (when->tv_sec != second) {
        struct tm parts;
        strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S.", gmtime_r(&when->tv_sec, &parts));
        second = when->tv_sec;
    }
    char *end = stpcpy(to, text) + 9;
    long rest = when->tv_nsec;
    for (char *digit = end; digit-- > end - 9; rest /= 10) *digit = (char)('0' + rest % 10);
    while (end[-1] == '0') end--;
    if (end[-1] == '.') end--;
    *end++ = 'Z';
    return end;
}

/* Bytes of the UTF-8 character here; 0: there is none. */
static uint32_t character(const unsigned char *at, uint32_t left) {
    uint32_t length = *at < 0xc2 ? 0 : *at < 0xe0 ? 2 : *at < 0xf0 ? 3 : *at < 0xf5 ? 4 : 0;
    unsigned low = *at == 0xe0 ? 0xa0 : *at == 0xf0 ? 0x90 : 0x80, high = *at == 0xed ? 0x9f : *at == 0xf4 ? 0x8f : 0xbf;
    if (!length || left < length || at[1] < low || at[1] > high) return 0;
    for (uint32_t i = 2; i < length; i++)
        if ((at[i] & 0xc0) != 0x80) return 0;
    return length;
}

/* As Docker's json-file driver escapes: a tab is \u0009 there. */
static uint32_t put_json(char *to, const char *text, uint32_t length) {
    static const char hex[] = "0123456789abcdef";
    char *const begin = to;
    for (uint32_t i = 0, count; i < length; i += count) {
        unsigned char byte = (unsigned char)text[i];
        count = 1;
        if (byte == '"' || byte == '\\') *to++ = '\\', *to++ = (char)byte;
        else if (byte == '\n' || byte == '\r') *to++ = '\\', *to++ = byte == '\n' ? 'n' : 'r';
        else if (byte < 0x20 || byte == '<' || byte == '>' || byte == '&')
            to = stpcpy(to, "\\u00"), *to++ = hex[byte >> 4], *to++ = hex[byte & 15];
        else if (byte < 0x80) *to++ = (char)byte;
        else if (!(count = character((const unsigned char *)text + i, length - i))) to = stpcpy(to, "\\ufffd"), count = 1;
        else if (count == 3 && !memcmp(text + i, "\xe2\x80", 2) && ((unsigned char)text[i + 2] & 0xfe) == 0xa8) /* U+2028, U+2029 */
            to = stpcpy(to, "\\u202"), *to++ = hex[text[i + 2] & 15];
        else to = mempcpy(to, text + i, count);
    }
    return (uint32_t)(to - begin);
}

/* One entry: a line, or a piece of one that has no end yet. */
static void put_entry(struct line *from, const char *text, uint32_t length, bool whole) {
    if (most && size + entries_end >= most) rotate();
    if (entries_end + ENTRY > sizeof entries) write_entries();
    if (!from->split) clock_gettime(CLOCK_REALTIME, &from->since);
    from->split = !whole;
    char *to = entries + entries_end;
    if (*format == 'c') {
        to = stpcpy(put_time(to, &from->since), from->stream == 1 ? " stdout " : " stderr ");
        to = stpcpy(to, whole ? "F " : "P ");
        to = mempcpy(to, text, length);
    } else {
        to = stpcpy(to, "{\"log\":\"");
        to += put_json(to, text, length);
        if (whole) to = stpcpy(to, "\\n");
        to = stpcpy(to, from->stream == 1 ? "\",\"stream\":\"stdout\",\"time\":\"" : "\",\"stream\":\"stderr\",\"time\":\"");
        to = stpcpy(put_time(to, &from->since), "\"}");
    }
    *to++ = '\n';
    entries_end = (uint32_t)(to - entries);
}

void log_text(struct line *from, const char *text, uint32_t left) {
    while (left && *format != 'n') {
        uint32_t room = PIECE - from->length, count = left < room ? left : room;
        const char *newline = memchr(text, '\n', count);
        if (newline) count = (uint32_t)(newline - text);
        if (newline && !from->length) {
            put_entry(from, text, count, true);
        } else {
            memcpy(from->text + from->length, text, count);
            from->length += count;
            if (newline || from->length == PIECE) put_entry(from, from->text, from->length, newline != NULL), from->length = 0;
        }
        count += newline != NULL;
        text += count, left -= count;
    }
    write_entries();
}

void log_rest(struct line *from) {
    if (from->length) put_entry(from, from->text, from->length, false);
    from->length = 0;
    write_entries();
}
