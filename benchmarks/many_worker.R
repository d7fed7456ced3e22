# A process that fits models of one study with lme4 or glmmTMB, one a loop over forked processes.
#
#   Rscript many_worker.R PROGRAM NAME.csv FORMULA FAMILY PROCESSES KNOWN
#
# PROGRAM: lme4, glmmTMB, or bootMer (lme4's bootstrap of the fit). KNOWN: whether dispersions are
# given. Commands are "fit FIRST COUNT"; the protocol is that of worker.py.

args <- commandArgs(trailingOnly = TRUE)
script <- sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE))
source(file.path(dirname(script), "protocol.R"))
program <- args[1]
path <- args[2]
formula <- as.formula(args[3])
family <- args[4]
processes <- as.integer(args[5])
known <- args[6] == "known"
package <- if (program == "bootMer") "lme4" else program

problem <- tryCatch(
  {
    suppressWarnings(suppressPackageStartupMessages(library(package, character.only = TRUE)))
    NULL
  },
  error = function(e) e
)
if (!is.null(problem)) {
  failed(problem)
  quit("no")
}
data <- read_case(path)
rows <- nrow(data)

response <- function(i) {
  file <- file(sub("csv$", "bin", path), "rb")
  on.exit(close(file))
  seek(file, 4 * rows * i)
  as.numeric(readBin(file, "integer", rows, size = 4))
}
phi <- if (known) {
  name <- sub("csv$", "phi", path)
  readBin(name, "double", file.size(name) / 8, size = 8)
}

lme4_fit <- function(data, i) {
  fit <- if (family != "negative_binomial") {
    glmer(formula, data = data, family = family)
  } else if (known) {
    glmer(formula, data = data, family = MASS::negative.binomial(phi[i + 1]))
  } else {
    glmer.nb(formula, data = data)
  }
  list(fit, sqrt(diag(as.matrix(vcov(fit)))))
}

glmmTMB_fit <- function(data, i) {
  family <- if (family == "negative_binomial") nbinom2() else family
  fit <- if (known) {
    glmmTMB(formula, data = data, family = family, map = list(betad = factor(NA)),
            start = list(betad = log(phi[i + 1])))
  } else {
    glmmTMB(formula, data = data, family = family)
  }
  list(fit, sqrt(diag(vcov(fit)$cond)))
}

# Log-likelihood, standard errors, peak memory and CPU seconds of one model; NaN where the program
# stops. The model numbers count from 0. A forked process knows its own CPU time; the one that forks
# knows only of those that it has waited for.
one <- function(i) {
  used <- cpu()
  data$y <- response(i)
  fit_one <- if (program == "lme4") lme4_fit else glmmTMB_fit
  found <- tryCatch(
    suppressMessages(suppressWarnings(fit_one(data, i))),
    error = function(e) NULL
  )
  if (is.null(found)) return(list(NaN, NaN, peak(), cpu() - used))
  list(as.numeric(logLik(found[[1]])), found[[2]], peak(), cpu() - used)
}

peak <- function() {
  status <- "/proc/self/status"
  if (!file.exists(status)) return(0)
  1024 * as.numeric(gsub("[^0-9]", "", grep("^VmHWM", readLines(status), value = TRUE)))
}

cpu <- function() {
  sum(proc.time()[c("user.self", "sys.self", "user.child", "sys.child")])
}

loop <- function(first, count) {
  found <- parallel::mclapply(first + seq_len(count) - 1, one, mc.cores = processes)
  loglik <- vapply(found, function(f) f[[1]], 0)
  se <- vapply(found, function(f) numbers(f[[2]]), "")
  spent <- sum(vapply(found, function(f) f[[4]], 0))
  list(loglik, se, sum(!is.finite(loglik)), max(vapply(found, function(f) f[[3]], 0)), spent)
}

bootstrap <- function(first, count) {
  used <- cpu()
  parallel <- if (processes > 1) "multicore" else "no"
  found <- suppressMessages(suppressWarnings(
    bootMer(original, function(fit) c(fixef(fit), getME(fit, "theta")), nsim = count,
            seed = first + 1, parallel = parallel, ncpus = processes)
  ))
  p <- length(fixef(original))
  se <- numbers(apply(found$t, 2, sd, na.rm = TRUE)[seq_len(p)])
  list(numeric(), se, sum(!complete.cases(found$t)), peak(), cpu() - used)
}

if (program == "bootMer") {
  original <- suppressWarnings(glmer(formula, data = data, family = family))
}
ready(c(package, "Matrix"))

commands <- file("stdin", "r")
while (length(line <- readLines(commands, 1)) == 1) {
  asked <- as.integer(strsplit(line, " ")[[1]][-1])
  invisible(gc())
  tryCatch(
    {
      begin <- as.numeric(Sys.time())
      found <- if (program == "bootMer") bootstrap(asked[1], asked[2]) else loop(asked[1], asked[2])
      seconds <- as.numeric(Sys.time()) - begin
      say(
        field("seconds", number(seconds)), field("cpu", number(found[[5]])),
        field("loglik", numbers(found[[1]])),
        field("se", paste0("[", paste(found[[2]], collapse = ", "), "]")),
        field("failed", number(found[[3]])), field("peak_bytes", number(found[[4]]))
      )
    },
    error = failed
  )
}
