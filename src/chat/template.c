/* template.c - the long texts of the chat format, byte for byte those of the release (the test
 * compares them with tests/data/chat-vectors/constants.json). They are data of the DeepSeek V4
 * release, MIT licence, Copyright (c) 2023 DeepSeek.
 *
 * A prompt must equal what the model was trained on, so nothing here may be reworded, and no
 * other file may spell any of it again. Next: render.c. */
#include "chat/template.h"

/* clang-format off */
const char chat_tools_head[] =
    "## Tools\n"
    "\n"
    "You have access to a set of tools to help answer the user's question. You can invoke tools "
    "by writing a \"" CHAT_CALLS_OPEN "\" block like the following:\n"
    "\n"
    CHAT_CALLS_OPEN "\n"
    CHAT_INVOKE_OPEN "$TOOL_NAME" CHAT_INVOKE_OPEN_END "\n"
    CHAT_PARAM_OPEN "$PARAMETER_NAME\" " CHAT_STRING_ATTR "true|false\">$PARAMETER_VALUE"
    CHAT_PARAM_CLOSE "\n"
    "...\n"
    CHAT_INVOKE_CLOSE "\n"
    CHAT_INVOKE_OPEN "$TOOL_NAME2" CHAT_INVOKE_OPEN_END "\n"
    "...\n"
    CHAT_INVOKE_CLOSE "\n"
    CHAT_CALLS_CLOSE "\n"
    "\n"
    "String parameters should be specified as is and set `" CHAT_STRING_ATTR "true\"`. For all "
    "other types (numbers, booleans, arrays, objects), pass the value in JSON format and set `"
    CHAT_STRING_ATTR "false\"`.\n"
    "\n"
    "If thinking_mode is enabled (triggered by " CHAT_THINK_OPEN "), you MUST output your "
    "complete reasoning inside " CHAT_THINK_OPEN "..." CHAT_THINK_CLOSE " BEFORE any tool calls "
    "or final response.\n"
    "\n"
    "Otherwise, output directly after " CHAT_THINK_CLOSE " with tool calls or final response.\n"
    "\n"
    "### Available Tool Schemas\n"
    "\n";
/* clang-format on */

const char chat_tools_tail[] =
    "\n"
    "\n"
    "You MUST strictly follow the above defined tool name and parameter schemas to "
    "invoke tool calls.\n";

const char chat_format_head[] = "## Response Format:\n"
                                "\n"
                                "You MUST strictly adhere to the following schema to reply:\n";

const char chat_effort_a[] =
    "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"
    "You MUST be very thorough in your thinking and comprehensively decompose the "
    "problem to resolve the root cause, rigorously stress-testing your logic against all "
    "potential paths, edge cases, and adversarial scenarios.\n"
    "Explicitly write out your entire deliberation process, documenting every "
    "intermediate step, considered alternative, and rejected hypothesis to ensure "
    "absolutely no assumption is left unchecked.\n"
    "\n";

const char chat_effort_b[] =
    "Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.\n"
    "You MUST reason with the utmost depth and rigor, leaving absolutely nothing to "
    "chance: exhaustively decompose the problem into its most fundamental components, "
    "trace every causal chain to its root, and resolve the underlying cause rather than "
    "any surface symptom.\n"
    "Do not stop reasoning until you have independently verified the solution from "
    "multiple angles and are certain that no assumption remains unchecked and no error "
    "remains undiscovered.\n"
    "\n";
