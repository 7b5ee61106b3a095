/* template.h - every text of the chat format, once. template.c holds the long ones; the short
 * ones are macros because the renderer glues them and the parser compares with them. Control
 * tokens are written out in their spelling; the renderer recognises them there (and only
 * there). */
#ifndef CHAT_TEMPLATE_H
#define CHAT_TEMPLATE_H

#define CHAT_DSML "｜DSML｜"
#define CHAT_THINK_OPEN "<think>"
#define CHAT_THINK_CLOSE "</think>"

#define CHAT_BLANK_LINE "\n\n"
#define CHAT_RESULT_OPEN "<tool_result>"
#define CHAT_RESULT_CLOSE "</tool_result>"
#define CHAT_UNSUPPORTED_OPEN "[Unsupported "
#define CHAT_UNSUPPORTED_CLOSE "]"
#define CHAT_ARGUMENTS_KEY "arguments"

/* Calls: tag names, then the tags. */
#define CHAT_CALLS "tool_calls"
#define CHAT_INVOKE "invoke"
#define CHAT_PARAMETER "parameter"
#define CHAT_NAME_ATTR "name=\""
#define CHAT_STRING_ATTR "string=\""

#define CHAT_CALLS_OPEN "<" CHAT_DSML CHAT_CALLS ">"
#define CHAT_CALLS_CLOSE "</" CHAT_DSML CHAT_CALLS ">"
#define CHAT_INVOKE_OPEN "<" CHAT_DSML CHAT_INVOKE " " CHAT_NAME_ATTR /* NAME, then: */
#define CHAT_INVOKE_OPEN_END "\">"
#define CHAT_INVOKE_CLOSE "</" CHAT_DSML CHAT_INVOKE ">"
#define CHAT_PARAM_OPEN "<" CHAT_DSML CHAT_PARAMETER " " CHAT_NAME_ATTR /* KEY, then: */
#define CHAT_PARAM_STRING "\" " CHAT_STRING_ATTR "true\">"
#define CHAT_PARAM_JSON "\" " CHAT_STRING_ATTR "false\">"
#define CHAT_PARAM_CLOSE "</" CHAT_DSML CHAT_PARAMETER ">"

extern const char chat_tools_head[];  /* up to the schemas, one a line */
extern const char chat_tools_tail[];  /* after the last schema */
extern const char chat_format_head[]; /* before the schema of a response format */
extern const char chat_effort_a[];    /* preview: max; 0731: high */
extern const char chat_effort_b[];    /* 0731: max */

#endif
