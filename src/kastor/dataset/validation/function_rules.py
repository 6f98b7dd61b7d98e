"""Rules for function calls in an example or a prompt; each is a function that yields violations."""

from collections import Counter
from collections.abc import Iterator

from kastor.dataset.validation.rules import RuleViolation
from kastor.domain.content import Content, Example, FunctionCall, FunctionResponse, Prompt, Role, Text
from kastor.domain.errors import InvalidArgument
from kastor.domain.tools import FunctionDeclaration, ToolCallSupport, parse_declarations


def tool_violations(example: Example, calling: ToolCallSupport | None, base: str) -> Iterator[RuleViolation]:
    """Violations in an example's tools, calls and responses, for a base with this support for calls."""
    if calling is None:
        yield from _unsupported(example, base)
        return
    try:
        declared = parse_declarations(example.tools)
    except InvalidArgument as error:
        for wrong in error.violations:
            yield RuleViolation(wrong.field, "tool_declaration", wrong.description)
        return
    yield from tool_order_violations(example)
    yield from _undeclared(example, declared)
    if not calling.text_beside_calls:
        yield from _mixed(example, base)


def tool_order_violations(example: Example | Prompt) -> Iterator[RuleViolation]:
    """Violations of the order of calls and responses: the model calls, the user responds to earlier calls."""
    open_calls: Counter[str] = Counter()
    for path, role, part in _functions(example):
        if isinstance(part, FunctionCall):
            open_calls[part.name] += 1
            if role is not Role.MODEL:
                yield RuleViolation(
                    path, "function_role", "a call is in the user's turn", "only the model calls functions"
                )
        elif role is not Role.USER:
            yield RuleViolation(
                path, "function_role", "a response is in the model's turn", "move it into the user's turn"
            )
        elif open_calls[part.name] < 1:
            message = f"{part.name} was not called before, or already has a response"
            yield RuleViolation(path, "response_without_call", message, "put it after a model turn that calls it")
        else:
            open_calls[part.name] -= 1
    for index, system_part in enumerate(example.system or ()):
        if isinstance(system_part, FunctionCall | FunctionResponse):
            yield RuleViolation(
                f"systemInstruction.parts[{index}]", "function_role", "a call or response cannot be here"
            )


def _functions(example: Example | Prompt) -> Iterator[tuple[str, Role, FunctionCall | FunctionResponse]]:
    for i, content in enumerate(example.contents):
        for j, part in enumerate(content.parts):
            if isinstance(part, FunctionCall | FunctionResponse):
                yield f"contents[{i}].parts[{j}]", content.role, part


def _undeclared(example: Example, declared: tuple[FunctionDeclaration, ...]) -> Iterator[RuleViolation]:
    names = [one.name for one in declared]
    for path, _, part in _functions(example):
        if names and isinstance(part, FunctionCall) and part.name not in names:
            known = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
            yield RuleViolation(path, "call_not_declared", f"{part.name} is not among the example's tools: {known}")


def _mixed(example: Example, base: str) -> Iterator[RuleViolation]:
    for index, content in enumerate(example.contents):
        if content.role is Role.MODEL and _has_text(content) and _has_call(content):
            message = f"{base} answers either with text or with calls, not with both in one turn"
            yield RuleViolation(f"contents[{index}]", "text_beside_call", message, "leave the text out")


def _has_text(content: Content) -> bool:
    return any(isinstance(part, Text) and part.text for part in content.parts)


def _has_call(content: Content) -> bool:
    return any(isinstance(part, FunctionCall) for part in content.parts)


def _unsupported(example: Example, base: str) -> Iterator[RuleViolation]:
    for path, _, _ in _functions(example):
        yield RuleViolation(path, "functions_unsupported", f"{base} cannot be tuned on function calls")
    if example.tools:
        yield RuleViolation("tools", "functions_unsupported", f"{base} cannot be tuned on function calls")
