%% gen_tcp without a framework, messages in portions of 100, 16 acceptors: -run gen_tcp_echo main PORT
-module(gen_tcp_echo).
-export([main/1]).

main([Port]) ->
    {ok, Listener} = gen_tcp:listen(list_to_integer(Port),
        [binary, {ip, {127,0,0,1}}, {active, false}, {backlog, 4096}, {nodelay, true}, {reuseaddr, true}]),
    [spawn_link(fun() -> accept(Listener) end) || _ <- lists:seq(1, 16)],
    receive stop -> ok end.

accept(Listener) ->
    {ok, Socket} = gen_tcp:accept(Listener),
    Pid = spawn(fun() -> receive go -> inet:setopts(Socket, [{active, 100}]), echo(Socket) end end),
    gen_tcp:controlling_process(Socket, Pid),
    Pid ! go,
    accept(Listener).

echo(Socket) ->
    receive
        {tcp, Socket, Bytes} -> gen_tcp:send(Socket, Bytes), echo(Socket);
        {tcp_passive, Socket} -> inet:setopts(Socket, [{active, 100}]), echo(Socket);
        _ -> gen_tcp:close(Socket)
    end.
