-- Prints what wrk measured as one line of JSON. Times are in microseconds. Nothing in here runs during the measurement.
done = function(summary, latency, requests)
   local errors = summary.errors
   local wrong = errors.connect + errors.read + errors.write + errors.status + errors.timeout
   io.write(string.format(
      'JSON {"requests": %d, "duration": %d, "p50": %d, "p99": %d, "errors": %d}\n',
      summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), wrong))
end
