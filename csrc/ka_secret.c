#include "ka_secret.h"

#include <stdlib.h>
#include <string.h>

#include "ka_conf.h"

/* A shorter one is no secret, and would be found everywhere. A JSON Web Token has two dots, a header and more. */
enum { SHORTEST = 4, SHORTEST_JWT = 20, KEPT_TOKENS = 2 };

static const char STARS[] = "***";
_Static_assert(sizeof STARS <= SHORTEST, "in place of any secret");

static const char *const properties[] = {
    "sasl.password",
    "ssl.key.password",
    "ssl.keystore.password",
    "ssl.key.pem",
    "ssl.certificate.pem",
    "ssl.ca.pem",
    "sasl.oauthbearer.config",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.assertion.private.key.pem",
    "sasl.oauthbearer.assertion.private.key.passphrase",
};

struct kai_secret {
    kai_secret *next;
    size_t len;
    int is_token;
    char text[];
};

static kai_secret *new_secret(size_t len, int is_token)
{
    kai_secret *s = malloc(sizeof *s + len + 1);

    if (s)
        *s = (kai_secret){.len = len, .is_token = is_token};
    return s;
}

static void discard(kai_secret *s)
{
    volatile char *at = s->text; /* or the compiler would leave it out */

    for (size_t i = 0; i < s->len; i++)
        at[i] = 0;
    free(s);
}

void kai_secrets_init(kai_secrets *secrets)
{
    pthread_mutex_init(&secrets->lock, NULL);
}

void kai_secrets_fini(kai_secrets *secrets)
{
    kai_secret *s;

    while ((s = secrets->first)) {
        secrets->first = s->next;
        discard(s);
    }
    pthread_mutex_destroy(&secrets->lock);
}

int kai_secrets_learn(kai_secrets *secrets, const ka_conf *conf)
{
    for (size_t i = 0; i < sizeof properties / sizeof *properties; i++) {
        int64_t len = ka_conf_get(conf, properties[i], NULL, 0);
        kai_secret *s;

        if (len < SHORTEST)
            continue;
        if (!(s = new_secret((size_t)len, 0)))
            return 0;
        ka_conf_get(conf, properties[i], s->text, len + 1);
        s->next = secrets->first;
        secrets->first = s;
    }
    return 1;
}

/* Under lock. Takes the token out that is one too many, if there is. */
static kai_secret *oldest_token(kai_secrets *secrets)
{
    kai_secret **at = &secrets->first, *s;

    for (int n = 0; n < KEPT_TOKENS && *at && (*at)->is_token; n++)
        at = &(*at)->next;
    s = *at && (*at)->is_token ? *at : NULL;
    if (s)
        *at = s->next;
    return s;
}

int kai_secrets_learn_token(kai_secrets *secrets, const char *token)
{
    size_t len = strlen(token);
    kai_secret *s, *before;

    if (len < SHORTEST)
        return 1;
    if (!(s = new_secret(len, 1)))
        return 0;
    memcpy(s->text, token, len + 1);
    pthread_mutex_lock(&secrets->lock);
    s->next = secrets->first;
    secrets->first = s;
    before = oldest_token(secrets);
    pthread_mutex_unlock(&secrets->lock);
    if (before)
        discard(before);
    return 1;
}

/* How much of a secret stands at text: all, or what was left when librdkafka cut the text, which a remark in
 * parentheses may follow. */
static size_t length_of(const kai_secret *s, const char *text)
{
    size_t len = 0;

    while (len < s->len && text[len] == s->text[len])
        len++;
    if (len == s->len || (len >= SHORTEST && (!text[len] || strncmp(text + len, " (", 2) == 0)))
        return len;
    return 0;
}

/* Of tokens that librdkafka fetches itself we know no more than how they look. */
static size_t length_of_jwt(const char *text)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.";
    size_t len = strncmp(text, "eyJ", 3) == 0 ? strspn(text, letters) : 0; /* {" in base64 */

    return len >= SHORTEST_JWT ? len : 0;
}

void kai_secrets_hide(kai_secrets *secrets, char *text)
{
    size_t longest, len;

    pthread_mutex_lock(&secrets->lock);
    for (; *text; text += longest ? sizeof STARS - 1 : 1) {
        longest = length_of_jwt(text);
        for (const kai_secret *s = secrets->first; s; s = s->next)
            if ((len = length_of(s, text)) > longest)
                longest = len;
        if (longest) {
            memcpy(text, STARS, sizeof STARS - 1);
            memmove(text + sizeof STARS - 1, text + longest, strlen(text + longest) + 1);
        }
    }
    pthread_mutex_unlock(&secrets->lock);
}
