/* formats.c - the values of "format" that are kept, as regular expressions (regex.h). Dates are
 * real dates, also in leap years; a second of 60 is refused; host names and numbers are bounded. */
#include "base/mem.h"
#include "constrain/regex.h"

#define DATE                                                        \
    "([0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|"         \
    "(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))|" \
    "([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][48]|[2468]0|[13579][26])00)-02-29)"
#define CLOCK "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?"
#define ZONE "(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
#define LABEL "[A-Za-z0-9]([A-Za-z0-9-]{0,30}[A-Za-z0-9])?"
#define BYTE "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
#define HEX "[0-9A-Fa-f]"
#define GROUP HEX "{1,4}"

struct slice format_expr(struct slice name)
{
    static const struct {
        const char *name, *expr;
    } formats[] = {
        {"date", "^" DATE "$"},
        {"time", "^" CLOCK ZONE "$"},
        {"date-time", "^" DATE "T" CLOCK ZONE "$"},
        {"duration", "^P([0-9]{1,9}W|([0-9]{1,9}Y([0-9]{1,9}M)?([0-9]{1,9}D)?|[0-9]{1,9}M"
                     "([0-9]{1,9}D)?|[0-9]{1,9}D)|T([0-9]{1,9}H([0-9]{1,9}M([0-9]{1,9}S)?)?|"
                     "[0-9]{1,9}M([0-9]{1,9}S)?|[0-9]{1,9}S))$"},
        {"uuid", "^" HEX "{8}-" HEX "{4}-" HEX "{4}-" HEX "{4}-" HEX "{12}$"},
        {"email",
         "^[A-Za-z0-9_+-]{1,32}(\\.[A-Za-z0-9_+-]{1,32}){0,3}@" LABEL "(\\." LABEL "){1,4}$"},
        {"hostname", "^" LABEL "(\\." LABEL "){0,6}$"},
        {"ipv4", "^" BYTE "(\\." BYTE "){3}$"},
        {"ipv6", "^((" GROUP ":){7}" GROUP "|(" GROUP ":){1,6}:" GROUP "|(" GROUP
                 ":){1,5}(:" GROUP "){2}|(" GROUP ":){1,4}(:" GROUP "){3}|(" GROUP
                 ":){1,3}(:" GROUP "){4}|(" GROUP ":){1,2}(:" GROUP "){5}|" GROUP ":(:" GROUP
                 "){6}|:((:" GROUP "){1,7}|:)|(" GROUP ":){1,7}:)$"},
        {"uri", "^[A-Za-z][A-Za-z0-9+.-]{0,30}:(//(" LABEL "(\\." LABEL
                "){0,6})(:[0-9]{1,5})?(/([A-Za-z0-9._~!$&'()*+,;=:@/-]|%" HEX "{2})*)?|"
                "([A-Za-z0-9._~!$&'()*+,;=:@-]|%" HEX "{2})([A-Za-z0-9._~!$&'()*+,;=:@/-]|%" HEX
                "{2})*)(\\?([A-Za-z0-9._~!$&'()*+,;=:@/?-]|%" HEX
                "{2})*)?(#([A-Za-z0-9._~!$&'()*+,;=:@/?-]|%" HEX "{2})*)?$"},
    };
    for (size_t i = 0; i < ARRAY_LEN(formats); i++) {
        if (slice_is(name, formats[i].name)) {
            return slice_of(formats[i].expr);
        }
    }
    return (struct slice){0};
}
