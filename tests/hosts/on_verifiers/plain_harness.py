"""A harness for tests: one chat request, made from this process, as `vf.Harness.launch` allows."""

from __future__ import annotations

import httpx
import verifiers.v1 as vf

__all__ = ["PlainHarness"]


class PlainHarnessConfig(vf.HarnessConfig):
    """No knobs."""


class PlainHarness(vf.Harness[PlainHarnessConfig]):
    """Sends the prompt to the interception server and takes the reply."""

    APPENDS_SYSTEM_PROMPT = True
    EXECUTES_CODE = False
    NEEDS_CONTAINER = False

    async def launch(
        self,
        ctx: vf.ModelContext,
        trace: vf.Trace,
        runtime: vf.Runtime,
        endpoint: str,
        secret: str,
        mcp_urls: dict[str, str],
        data: vf.TaskData,
    ) -> vf.ProgramResult:
        _, prompt = self.resolve_prompt(data)
        said = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [m.model_dump() for m in prompt]
        async with httpx.AsyncClient(timeout=30) as client:
            reply = await client.post(
                f"{endpoint}/chat/completions",
                headers={"Authorization": f"Bearer {secret}"},
                json={"model": ctx.model, "messages": said},
            )
        reply.raise_for_status()
        return vf.ProgramResult(exit_code=0, stdout="", stderr="")
