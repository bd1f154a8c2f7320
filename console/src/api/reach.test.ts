// @vitest-environment jsdom
import { afterEach, beforeEach, expect, it, vi } from "vitest";

beforeEach(() => vi.useFakeTimers());
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

it("asks for the server's health while it is away, and tells once that it is back", async () => {
  const { followReach, noteAnswer, noteSilence } = await import("./reach");
  const back = vi.fn();
  const health = vi.fn().mockRejectedValueOnce(new TypeError("away")).mockResolvedValue(new Response("{}"));
  vi.stubGlobal("fetch", health);
  followReach(back);
  noteAnswer();
  await vi.advanceTimersByTimeAsync(60_000);
  expect(health).not.toHaveBeenCalled();

  noteSilence();
  noteSilence();
  await vi.advanceTimersByTimeAsync(2_000);
  expect(health).toHaveBeenCalledTimes(1);
  expect(back).not.toHaveBeenCalled();
  await vi.advanceTimersByTimeAsync(60_000);
  expect(health).toHaveBeenCalledTimes(2);
  expect(back).toHaveBeenCalledTimes(1);
});
