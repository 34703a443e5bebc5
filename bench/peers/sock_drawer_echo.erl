%% sock_drawer, 100 acceptors: -run sock_drawer_echo main PORT
-module(sock_drawer_echo).
-behaviour(sock_drawer).
-export([main/1, init/1, start_manager/1, start_handler/3, wait/1]).

main([Port]) ->
    {ok, _} = application:ensure_all_started(sock_drawer),
    {ok, _} = sock_drawer:start_link(?MODULE, list_to_integer(Port), []),
    receive stop -> ok end.

start_manager(Id) -> sd_simple:start_link(Id, ?MODULE, manager, []).

init(manager) -> {ok, infinity};
init(Port) ->
    Options = [{backlog, 4096}, {nodelay, true}, {reuseaddr, true}, binary],
    Manager = {manager, {?MODULE, start_manager, []}, permanent, 5000, worker, [?MODULE, sd_simple]},
    Targeter = {targeter, {sd_targeter, start_link, [Options, 1000]}, permanent, 5000, worker, [sd_targeter]},
    Creator = {creator, {sd_creator, start_link, [[], infinity, {0,0}, {0,0}]}, transient, 5000, worker, [sd_creator]},
    Handler = {handler, {?MODULE, start_handler, []}, temporary, 5000, worker, [?MODULE]},
    {ok, {{{sd_tcp, accept, {{127,0,0,1}, Port}}, 100, 1, 5}, [Manager, Targeter, Creator, Handler]}}.

start_handler(_Info, _Id, Ref) -> {ok, proc_lib:spawn_link(?MODULE, wait, [Ref])}.

wait(Ref) ->
    receive
        {socket, Ref, Socket} -> echo(Socket);
        {tcp_closed, _} -> ok
    end.

echo(Socket) ->
    case gen_tcp:recv(Socket, 0) of
        {ok, Bytes} -> gen_tcp:send(Socket, Bytes), echo(Socket);
        _ -> gen_tcp:close(Socket)
    end.
