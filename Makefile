# Everything a change needs before it is committed: make build test lint.
GO      ?= go
BIN     := bin
CORE    := ./internal/kbatch/... ./internal/offsets/... ./internal/replicate/... ./internal/kstate/... ./internal/mirror/...
FUZZTIME ?= 30s
SEED    ?=
SEEDS   ?=
KILLS   ?= 50
DURATION ?= 10m
ROUNDS  ?= 0
PARTITIONS ?= 10000
SAMPLES ?= 1000
SWITCHOVERS ?= 20
FAILOVERS ?= 50
MOVEKILLS ?= 20
FAILKILLS ?= 10
LONG    := TestMirrorMakerCopies|TestLoadSurvivesABrokerRestart|TestThreeBrokersSurviveOne|TestUncleanElections|TestReal_(LeadersAreKilled|ClustersComeAndGo|LimitAndQuotas|WaitingPartitions|ARebuiltCluster|FailoverWithTheSourceKilled|SessionsThatEnd|EveryRecordOnce)|TestMoves_(FailbackWithEachPolicy|SwitchoverForthAndBack|FailoverAndTheOldSideReturns)|TestWalk_|TestRunbooks_WithTheDocumented|TestServe_BothWays

.PHONY: bench bench-groups bench-quick bench-scale groups help build test long sim wide wide-real kills campaign moves bugs race lint fuzz ci quickstart clean
help: ## show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

build: ## the binary, static, in bin/
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN)/anabranch ./cmd/anabranch

test: ## all tests; those on real Kafka are skipped, and say why, where Java or Maven is missing
	$(GO) test ./...

sim: ## replicators on fake Kafka and on the broker model in fake time, on all cores: SEEDS=N scenarios, from SEED=N on; goes on where it was interrupted
	$(GO) run ./tests/sim/simrun -seed $(or $(SEED),1) -seeds $(or $(SEEDS),$(if $(SEED),1,100))

long: ## the tests that a plain go test leaves out, since another shows much the same in less time; twenty minutes
	ANABRANCH_REQUIRE_KAFKA=1 ANABRANCH_TEST_LONG=1 $(GO) test -count=1 -timeout 0 -v -p 1 -run '$(LONG)' ./internal/ktest ./internal/replicate ./tests/assumptions ./tests/e2e

wide: ## a worker dies that copied PARTITIONS=10000 on the broker model: how long until all run again, and what that sends
	ANABRANCH_SIM_PARTITIONS=$(PARTITIONS) $(GO) test -count=1 -timeout 0 -v -run '^TestModel_ManyPartitions$$' ./tests/sim

wide-real: ## the same on real Kafka, where two workers die one after the other; two brokers with a heap of 2 GiB each (ARGS=-help)
	$(GO) run ./tests/wide -partitions $(PARTITIONS) $(ARGS)

kills: ## workers killed and brokers restarted under load on real Kafka, then every record compared: KILLS=N kills, SEED=N repeats the random choices
	ANABRANCH_REQUIRE_KAFKA=1 ANABRANCH_TEST_KILLS=$(KILLS) ANABRANCH_TEST_SEED=$(SEED) $(GO) test -count=1 -timeout 0 -v -run '^TestReal_Kills' ./internal/replicate

groups: ## consumer groups move to the other cluster on real Kafka: the first record that each reads there against the next unread one, SAMPLES=1000 of them; KILLS=N workers are killed meanwhile
	$(GO) build -o $(BIN)/anabranch-groups ./tests/groups
	$(BIN)/anabranch-groups -samples $(SAMPLES) -kills $(if $(filter command line environment,$(origin KILLS)),$(KILLS),0) -seed $(or $(SEED),0) $(ARGS)

campaign: ## random clusters, loads and faults on real Kafka, all compared, for DURATION; report in bin/campaign; SEED=N repeats the choices, ROUNDS=1 one round
	$(GO) build -o $(BIN)/anabranch-campaign ./tests/campaign
	$(BIN)/anabranch-campaign -duration $(DURATION) -seed $(or $(SEED),0) -rounds $(ROUNDS)

moves: ## SWITCHOVERS=20 forth and back under load, MOVEKILLS=20 commands killed, FAILOVERS=50 with a failback behind each, FAILKILLS=10 of either killed, on real Kafka with users; report in bin/moves (ARGS=-help)
	$(GO) build -o $(BIN)/anabranch-moves ./tests/moves
	$(BIN)/anabranch-moves -switchovers $(SWITCHOVERS) -kills $(MOVEKILLS) -bypass 3 -rivals 2 -failovers $(FAILOVERS) -failoverkills $(FAILKILLS) -failbackkills $(FAILKILLS) -seed $(or $(SEED),0) $(ARGS)

bugs: ## every seeded bug is built in, and a test must find it; WRITE=1 writes docs/seeded-bugs.md
	ANABRANCH_BUGS_WRITE=$(WRITE) $(GO) test -tags seededbugs -count=1 -timeout 0 -parallel 2 -v -run 'TestEveryMistake' ./tests/bugs

race: ## the packages of the data path under the race detector
	$(GO) test -race $(CORE)

lint: ## gofmt, vet, golangci-lint
	.ci/run lint

fuzz: ## every fuzz target for FUZZTIME
	@set -e; grep -rlE '^func Fuzz' --include='*_test.go' . | while read -r file; do \
	  for target in $$(sed -nE 's/^func (Fuzz[A-Za-z0-9_]*)\(.*/\1/p' "$$file"); do \
	    $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$(dirname "$$file")"; \
	  done; \
	done

quickstart: ## a tour of replication on two real Kafka clusters; needs Java 17 and Maven (ARGS=-exit ends after the tour)
	$(GO) run ./tests/quickstart $(ARGS)

bench: ## Anabranch, MirrorMaker 2 and the ceiling side by side: under 30 minutes, writes bench/README.md and bench/results
	$(GO) run ./bench

bench-quick: ## a part of it, compared with the ratios of the last full run
	$(GO) run ./bench -quick

bench-groups: ## what consumer groups read again after a move, with Anabranch and with MirrorMaker 2: 6 minutes, writes its table of bench/README.md
	$(GO) run ./bench groups

bench-scale: ## a long link, 10,000 partitions, 1,000 topics at once, 1 to 4 workers, a backlog of 10 GB: writes its table of bench/README.md (ARGS='-small', ARGS='-rows link')
	$(GO) run ./bench scale $(ARGS)

ci: ## what a change has to pass
	.ci/run

clean: ## remove what was built
	rm -rf $(BIN)
