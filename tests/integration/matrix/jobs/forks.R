# R: matrices, random numbers, forked workers (parallel), a file that is appended to:  Rscript forks.R DATA_FOLDER
library(parallel)
data <- commandArgs(trailingOnly = TRUE)[1]
finish <- file.path(data, "finish")
set.seed(7)
m <- matrix(rnorm(90000), 300)
wanted <- sum(svd(m)$d)
model <- function(i) { x <- i; for (k in 1:2000) x <- (x * 16807) %% 2147483647; x }
answers <- sapply(1:8, model)
log <- file(file.path(data, "log"), "a")
state <- .Random.seed
rounds <- 0
repeat {
  last <- file.exists(finish)
  rounds <- rounds + 1
  if (!isTRUE(all.equal(sum(svd(m)$d), wanted, tolerance = 1e-12))) { cat("wrong: the matrix\n"); quit(status = 3) }
  if (!identical(unlist(mclapply(1:8, model, mc.cores = 2)), answers)) { cat("wrong: workers\n"); quit(status = 3) }
  .Random.seed <<- state
  drawn <- sum(runif(1000))
  if (rounds == 1) first <- drawn
  if (!identical(drawn, first)) { cat("wrong: random numbers\n"); quit(status = 3) }
  cat(rounds, "\n", file = log)
  flush(log)
  writeLines(as.character(rounds), file.path(data, "beat"))
  if (rounds == 2) { cat("ready\n"); flush(stdout()) }
  if (last) break
}
close(log)
if (!identical(as.numeric(readLines(file.path(data, "log"))), as.numeric(1:rounds))) { cat("wrong: log\n"); quit(status = 3) }
cat("end", format(wanted, digits = 15), format(first, digits = 15), "\n")
